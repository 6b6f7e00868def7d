/* Fuzz target: the state reader on arbitrary bytes, then the calls that a device's load makes.
 */
#include "base/fuzz.h"
#include "state/state.h"

#include <string.h>

struct chip {
    uint8_t reg;
    bool flag;
    uint32_t words[4];
    uint8_t fifo[8];
};

static const struct state_field fields[] = {
    STATE_UINT(struct chip, reg), STATE_UINT(struct chip, flag),
    STATE_UINTS(struct chip, words), STATE_BYTES(struct chip, fifo), STATE_END};

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    struct state_writer *w;
    struct chip chip = {.reg = 1, .flag = true, .words = {1, 2, 3, 4}, .fifo = "1234567"};
    const void *data;
    size_t len;

    if (index > 1 || state_writer_new(&w, NULL) < 0) {
        return 0;
    }
    for (uint32_t i = 0; i <= index; i++) {
        state_begin(w, "chip", i, 1);
        state_put_fields(w, fields, &chip);
        state_put_uint(w, "n", 5);
        state_put_bytes(w, "blob", "some bytes", 10);
        state_end(w);
    }
    if (state_writer_finish(w, &data, &len) < 0 || len > cap) {
        len = 0;
    } else {
        memcpy(buf, data, len);
    }
    state_writer_free(w);
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct state_reader *r;
    struct err err;
    struct chip chip;
    uint32_t version;
    uint64_t n;
    const void *blob;
    size_t blob_len;
    uint8_t sum = 0;

    if (state_reader_new(&r, data, len, &err) < 0) {
        return 0;
    }
    for (uint32_t i = 0; i < 2; i++) {
        if (state_enter(r, "chip", i, 3, &version, &err) == 0 &&
            state_get_fields(r, fields, &chip, &err) == 0 &&
            state_get_uint(r, "n", &n, &err) == 0 &&
            state_get_blob(r, "blob", 64, &blob, &blob_len, &err) == 0) {
            for (size_t k = 0; k < blob_len; k++) {
                sum = (uint8_t)(sum + ((const uint8_t *)blob)[k]);
            }
        }
        state_leave(r, &err);
    }
    state_reader_finish(r, &err);
    state_reader_free(r);
    volatile uint8_t sink = sum; /* the reads above must happen */
    (void)sink;
    return 0;
}
