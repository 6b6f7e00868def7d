/* The stream's constants, shared by writer and reader. */
#pragma once

#define STATE_MAGIC     "VIVSTATE"
#define STATE_MAGIC_LEN 8
#define STATE_FORMAT    1u
#define STATE_NAME_MAX  255
