/* Numbers and sizes from text (parse.h). Pure functions. */
#include "base/parse.h"

#include "base/ckd.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Reads decimal digits at *p; false without one or beyond 64 bits. */
static bool digits(const char **p, uint64_t *ret_value, unsigned *ret_n)
{
    uint64_t v = 0;
    unsigned n = 0;

    for (; isdigit((unsigned char)**p); (*p)++, n++) {
        if (!ckd_mul(v, UINT64_C(10), &v) || !ckd_add(v, (uint64_t)(**p - '0'), &v)) {
            return false;
        }
    }
    *ret_value = v;
    *ret_n = n;
    return true;
}

/* True when the whole text has the form of a number, whatever its size. */
static bool all_digits(const char *text)
{
    return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

int parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    const char *p = text;
    uint64_t v;
    unsigned n;

    if (!all_digits(text)) {
        return -EINVAL;
    }
    if (!digits(&p, &v, &n) || v < min || v > max) {
        return -ERANGE;
    }
    *ret_value = v;
    return 0;
}

/* Power of two of the unit, or -1. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGTPE";

    if (*unit == '\0' || strcasecmp(unit, "B") == 0) {
        return 0;
    }
    const char *at = strchr(letters, toupper((unsigned char)*unit));
    if (at == NULL || (unit[1] != '\0' && strcasecmp(unit + 1, "B") != 0 &&
                       strcasecmp(unit + 1, "iB") != 0)) {
        return -1;
    }
    return (int)(at - letters + 1) * 10;
}

int parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *ret_bytes)
{
    const char *p = text;
    uint64_t whole = 0, fraction = 0, scale = 1, bytes;
    unsigned n = 0, fraction_n = 0;
    bool fits = digits(&p, &whole, &n);

    while (isdigit((unsigned char)*p)) {
        p++; /* the rest of a number that is too large */
    }
    if (fits && n == 0) {
        return -EINVAL;
    }
    if (*p == '.') {
        p++;
        if (!digits(&p, &fraction, &fraction_n) || fraction_n == 0 || fraction_n > 9) {
            return -EINVAL;
        }
        for (unsigned i = 0; i < fraction_n; i++) {
            scale *= 10;
        }
    }
    int shift = unit_shift(p);
    if (shift < 0) {
        return -EINVAL;
    }
    if (!fits || !ckd_mul(whole, UINT64_C(1) << shift, &bytes)) {
        return -ERANGE;
    }
    unsigned __int128 part = (unsigned __int128)fraction << shift;
    if (part % scale != 0) {
        return -EINVAL;
    }
    if (!ckd_add(bytes, (uint64_t)(part / scale), &bytes) || bytes < min || bytes > max) {
        return -ERANGE;
    }
    *ret_bytes = bytes;
    return 0;
}

void format_size(uint64_t bytes, char *buf, size_t len)
{
    static const char letters[] = "KMGTPE";
    int unit = -1;

    while (unit < 5 && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    if (unit < 0) {
        snprintf(buf, len, "%" PRIu64, bytes);
    } else {
        snprintf(buf, len, "%" PRIu64 "%c", bytes, letters[unit]);
    }
}
