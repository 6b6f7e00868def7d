/* Fuzz target: the VM spec parser; what it accepts is written and must be accepted again. */
#include "base/fuzz.h"
#include "base/json_out.h"
#include "vmm/spec_parse.h"

#include <stdlib.h>
#include <string.h>

size_t fuzz_seed(unsigned index, uint8_t *buf, size_t cap)
{
    static const char *const seeds[] = {
        "{\"version\":1,\"boot\":{\"kernel\":\"k\"}}",
        "{\"version\":1,\"name\":\"a\",\"cpus\":4,\"memory_bytes\":2147483648,\"engine\":"
        "\"soft\","
        "\"boot\":{\"kernel\":\"/k\",\"initrd\":\"/"
        "i\",\"cmdline\":\"a=b\"},\"disks\":[{\"path\":"
        "\"/d\",\"readonly\":true,\"serial\":\"S\"}],\"nets\":[{\"kind\":\"user\",\"mac\":"
        "\"02:56:49:56:00:07\",\"hostfwd\":[\"tcp:127.0.0.1:2222-:22\"]}],\"console\":{"
        "\"kind\":"
        "\"file\",\"path\":\"/c\"},\"metrics\":\"/m\"}",
    };
    if (index >= sizeof(seeds) / sizeof(seeds[0]) || strlen(seeds[index]) > cap) {
        return 0;
    }
    memcpy(buf, seeds[index], strlen(seeds[index]));
    return strlen(seeds[index]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct machine_config cfg, again;
    struct err err;
    struct json_out out;
    size_t out_len;

    if (spec_parse(&cfg, (const char *)data, len, &err) < 0) {
        return 0;
    }
    json_out_init(&out, true);
    machine_config_write(&cfg, &out);
    const char *text = json_out_finish(&out, &out_len);
    if (text == NULL || spec_parse(&again, text, out_len, &err) < 0) {
        abort();
    }
    machine_config_done(&again);
    machine_config_done(&cfg);
    json_out_done(&out);
    return 0;
}
