/* For the first line of a main. */
#pragma once

#include <fcntl.h>
#include <unistd.h>

/* Opens /dev/null for each of descriptors 0, 1 and 2 that is closed, so that no file of ours
 * gets their number and with it what is meant for the terminal. */
static inline void stdfds_fill(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) {
            _exit(1);
        }
    }
}
