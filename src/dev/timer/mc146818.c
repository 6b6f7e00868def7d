/*
 * MC146818 real-time clock: time of day, alarm, periodic and update-ended interrupts, CMOS RAM
 * (Motorola MC146818 data sheet; PC wiring and NMI mask: Intel ICH9 data sheet, 13.6).
 *
 * The time of day is the host's wall clock plus an offset that the guest sets, so that it is
 * right again after a pause. The periodic interrupt runs on guest time. Flags are worked out
 * when they are looked at; host timers run only for enabled interrupts. A late periodic
 * interrupt makes up for at most MAX_OWED periods.
 *
 * Thread and lock: the machine's device lock; timer callbacks take it.
 * Saved: registers and RAM, the offset, the phase of the periodic interrupt.
 * Missing: square wave output, daylight saving (no modern part has it), the second RAM bank.
 */
#include "dev/timer/mc146818.h"

#include "base/ckd.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SEC, SEC_ALARM, MIN_, MIN_ALARM, HOUR, HOUR_ALARM, DAY, DATE, MONTH, YEAR, A, B, C, D };

#define A_UIP   0x80u
#define B_SET   0x80u
#define B_PIE   0x40u
#define B_AIE   0x20u
#define B_UIE   0x10u
#define B_DM    0x04u /* binary */
#define B_24    0x02u
#define C_IRQF  0x80u
#define C_PF    0x40u
#define C_AF    0x20u
#define C_UF    0x10u
#define D_VRT   0x80u
#define PM_FLAG 0x80u

#define CRYSTAL_HZ UINT64_C(32768)
/* The update takes 1984 us and is announced 244 us before. */
#define UIP_NS          UINT64_C(2228000)
#define MAX_OWED        10
#define MIN_INTERVAL_NS UINT64_C(50000)
#define MAX_ALARM_SCAN  86400

struct mc146818 {
    struct dev dev;
    struct mc146818_config cfg;
    uint8_t index; /* of port 71h */
    uint8_t nmi_mask;
    uint8_t ram[128];  /* the clock's own bytes hold what was written while it was stopped */
    int64_t offset_ns; /* clock = wall + offset */
    int64_t last_s;    /* second up to which UF and AF are worked out */
    uint8_t day_shift; /* day of week as set, less as computed */
    uint64_t seen;     /* periods of the periodic interrupt accounted for */
    uint64_t fired_ns;
    uint8_t owed;
    struct timer periodic, update;
};

struct civil {
    int64_t year;                         /* full */
    int month, date, hour, min, sec, day; /* day: 1 is Sunday */
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar; month may leave 1 to 12. */
static int64_t days_from_civil(int64_t year, int64_t month, int64_t date)
{
    int64_t era, yoe, doy;

    year += floor_div(month - 1, 12);
    month = month - 12 * floor_div(month - 1, 12);
    /* Years that begin in March put the leap day last. */
    year -= month <= 2;
    era = floor_div(year, 400);
    yoe = year - era * 400;
    doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + date - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static struct civil civil_from_seconds(int64_t seconds)
{
    int64_t days = floor_div(seconds, 86400), rest = seconds - days * 86400;
    int64_t z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    struct civil t;

    t.date = (int)(doy - (153 * mp + 2) / 5 + 1);
    t.month = (int)(mp + (mp < 10 ? 3 : -9));
    t.year = yoe + era * 400 + (t.month <= 2);
    t.hour = (int)(rest / 3600);
    t.min = (int)(rest / 60 % 60);
    t.sec = (int)(rest % 60);
    t.day = (int)((days % 7 + 7 + 4) % 7) + 1; /* 1970-01-01 was a Thursday */
    return t;
}

static int64_t rtc_now_ns(const struct mc146818 *rtc)
{
    uint64_t wall =
        rtc->cfg.wall_ns != NULL ? rtc->cfg.wall_ns(rtc->cfg.wall_opaque) : clock_wall_ns();

    return (int64_t)(wall + (uint64_t)rtc->offset_ns);
}

static int64_t rtc_now_s(const struct mc146818 *rtc)
{
    return floor_div(rtc_now_ns(rtc), (int64_t)NSEC_PER_SEC);
}

/* The divider chain is in reset (A bits 6:4 11x) or the program holds updates. */
static bool is_stopped(const struct mc146818 *rtc)
{
    return (rtc->ram[B] & B_SET) != 0 || (rtc->ram[A] & 0x60) == 0x60;
}

static uint8_t encode(const struct mc146818 *rtc, unsigned v)
{
    v %= 100;
    return (uint8_t)((rtc->ram[B] & B_DM) != 0 ? v : (v / 10) << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *rtc, uint8_t v)
{
    return (rtc->ram[B] & B_DM) != 0 ? v : (v >> 4) * 10u + (v & 0xf);
}

static uint8_t encode_hour(const struct mc146818 *rtc, int hour)
{
    if ((rtc->ram[B] & B_24) != 0) {
        return encode(rtc, (unsigned)hour);
    }
    return encode(rtc, hour % 12 == 0 ? 12 : (unsigned)hour % 12) | (hour >= 12 ? PM_FLAG : 0);
}

static unsigned decode_hour(const struct mc146818 *rtc, uint8_t v)
{
    if ((rtc->ram[B] & B_24) != 0) {
        return decode(rtc, v);
    }
    return decode(rtc, v & 0x7f) % 12 + ((v & PM_FLAG) != 0 ? 12 : 0);
}

/* Writes the running time into the clock's bytes. */
static void time_to_ram(struct mc146818 *rtc)
{
    struct civil t = civil_from_seconds(rtc_now_s(rtc));

    rtc->ram[SEC] = encode(rtc, (unsigned)t.sec);
    rtc->ram[MIN_] = encode(rtc, (unsigned)t.min);
    rtc->ram[HOUR] = encode_hour(rtc, t.hour);
    rtc->ram[DAY] = encode(rtc, (unsigned)(t.day - 1 + rtc->day_shift) % 7 + 1);
    rtc->ram[DATE] = encode(rtc, (unsigned)t.date);
    rtc->ram[MONTH] = encode(rtc, (unsigned)t.month);
    rtc->ram[YEAR] = encode(rtc, (unsigned)(t.year % 100));
    rtc->ram[MC146818_CENTURY] = encode(rtc, (unsigned)(t.year / 100));
}

/* Starts the clock from its bytes; any values a program wrote there carry over arithmetically.
 */
static void time_from_ram(struct mc146818 *rtc, int64_t fraction_ns)
{
    const uint8_t *ram = rtc->ram;
    int64_t year = (int64_t)decode(rtc, ram[MC146818_CENTURY]) * 100 + decode(rtc, ram[YEAR]);
    int64_t days = days_from_civil(year, decode(rtc, ram[MONTH]), decode(rtc, ram[DATE]));
    int64_t s = days * 86400 + decode_hour(rtc, ram[HOUR]) * 3600 +
                decode(rtc, ram[MIN_]) * 60 + decode(rtc, ram[SEC]);
    unsigned day = decode(rtc, ram[DAY]);
    int64_t now;

    /* 64 bits of nanoseconds end in 2262; what lies beyond (or before 1970) is pinned. */
    s = MAX(s, 0);
    s = MIN(s, INT64_C(9000000000));
    rtc->offset_ns = 0;
    now = rtc_now_ns(rtc);
    rtc->offset_ns =
        (int64_t)((uint64_t)(s * (int64_t)NSEC_PER_SEC + fraction_ns) - (uint64_t)now);
    rtc->last_s = s;
    rtc->day_shift = (uint8_t)((day + 14u - (unsigned)civil_from_seconds(s).day) % 7);
}

static bool alarm_field(uint8_t alarm, uint8_t value)
{
    return (alarm & 0xc0) == 0xc0 || alarm == value;
}

static bool alarm_matches(const struct mc146818 *rtc, int64_t second)
{
    struct civil t = civil_from_seconds(second);

    return alarm_field(rtc->ram[SEC_ALARM], encode(rtc, (unsigned)t.sec)) &&
           alarm_field(rtc->ram[MIN_ALARM], encode(rtc, (unsigned)t.min)) &&
           alarm_field(rtc->ram[HOUR_ALARM], encode_hour(rtc, t.hour));
}

static uint64_t period_ticks(const struct mc146818 *rtc)
{
    unsigned rs = rtc->ram[A] & 0xf;

    if (rs == 0 || (rtc->ram[A] & 0x70) != 0x20) {
        return 0;
    }
    /* The two fastest codes are shifted on a 32 kHz crystal: 256 and 128 Hz. */
    return UINT64_C(1) << (rs <= 2 ? rs + 6 : rs - 1);
}

static void account_periods(struct mc146818 *rtc, uint64_t now)
{
    uint64_t ticks = period_ticks(rtc), count, due;

    if (ticks == 0) {
        return;
    }
    count = muldiv64(now, CRYSTAL_HZ, NSEC_PER_SEC) / ticks;
    due = count - MIN(rtc->seen, count);
    rtc->seen = count;
    if (due == 0) {
        return;
    }
    rtc->owed = (uint8_t)MIN(rtc->owed + MIN(due, MAX_OWED), MAX_OWED);
}

/* Works out UF and AF for the seconds that began since the last look. */
static void account_seconds(struct mc146818 *rtc)
{
    int64_t now = rtc_now_s(rtc), from;

    if (is_stopped(rtc) || now == rtc->last_s) {
        return;
    }
    rtc->ram[C] |= C_UF;
    from = rtc->last_s + 1;
    /* A wall clock that jumped, or a long pause: a day holds every alarm there is. */
    if (now < from || now - from > MAX_ALARM_SCAN) {
        from = MAX(now - MAX_ALARM_SCAN, 0);
        from = now < rtc->last_s ? now : from;
    }
    for (int64_t s = from; s <= now && (rtc->ram[C] & C_AF) == 0; s++) {
        if (alarm_matches(rtc, s)) {
            rtc->ram[C] |= C_AF;
        }
    }
    rtc->last_s = now;
}

static void update_irq(struct mc146818 *rtc)
{
    bool level = (rtc->ram[B] & rtc->ram[C] & (C_PF | C_AF | C_UF)) != 0;

    rtc->ram[C] = (uint8_t)((rtc->ram[C] & ~C_IRQF) | (level ? C_IRQF : 0));
    irq_set(&rtc->cfg.irq, level);
}

static void rearm_periodic(struct mc146818 *rtc)
{
    uint64_t ticks = period_ticks(rtc), next;

    if (ticks == 0 || (rtc->ram[B] & B_PIE) == 0) {
        timer_disarm(&rtc->periodic);
        return;
    }
    if (rtc->owed > 0) {
        next =
            rtc->fired_ns + MAX(muldiv64(ticks, NSEC_PER_SEC / 2, CRYSTAL_HZ), MIN_INTERVAL_NS);
    } else {
        next = muldiv64((rtc->seen + 1) * ticks, NSEC_PER_SEC, CRYSTAL_HZ) + 1;
    }
    timer_arm(&rtc->periodic, MAX(next, rtc->fired_ns + MIN_INTERVAL_NS));
}

static void rearm_update(struct mc146818 *rtc)
{
    int64_t rest;

    if (is_stopped(rtc) || (rtc->ram[B] & (B_AIE | B_UIE)) == 0) {
        timer_disarm(&rtc->update);
        return;
    }
    rest = rtc_now_ns(rtc) % (int64_t)NSEC_PER_SEC;
    rest = rest < 0 ? rest + (int64_t)NSEC_PER_SEC : rest;
    timer_arm(&rtc->update,
              vmclock_now_ns(rtc->cfg.clock) + (NSEC_PER_SEC - (uint64_t)rest) + 1000);
}

static void periodic_fired(void *opaque)
{
    struct mc146818 *rtc = opaque;
    uint64_t now;

    SCOPED_LOCK(rtc->cfg.lock);
    now = vmclock_now_ns(rtc->cfg.clock);
    account_periods(rtc, now);
    /* An interrupt that the guest has not looked at yet swallows this one. */
    if (rtc->owed > 0) {
        rtc->owed--;
        rtc->fired_ns = now;
        rtc->ram[C] |= C_PF;
        update_irq(rtc);
    }
    rearm_periodic(rtc);
}

static void update_fired(void *opaque)
{
    struct mc146818 *rtc = opaque;

    SCOPED_LOCK(rtc->cfg.lock);
    account_seconds(rtc);
    update_irq(rtc);
    rearm_update(rtc);
}

static uint8_t read_c(struct mc146818 *rtc)
{
    uint8_t value;

    account_seconds(rtc);
    if ((rtc->ram[B] & B_PIE) == 0) {
        account_periods(rtc, vmclock_now_ns(rtc->cfg.clock));
        if (rtc->owed > 0) {
            rtc->ram[C] |= C_PF;
        }
        rtc->owed = 0;
    }
    update_irq(rtc);
    value = rtc->ram[C];
    rtc->ram[C] = 0;
    update_irq(rtc);
    return value;
}

static uint8_t read_a(const struct mc146818 *rtc)
{
    int64_t rest = rtc_now_ns(rtc) % (int64_t)NSEC_PER_SEC;
    bool uip = !is_stopped(rtc) && rest >= (int64_t)(NSEC_PER_SEC - UIP_NS);

    return (uint8_t)(rtc->ram[A] | (uip ? A_UIP : 0));
}

static bool is_time_byte(uint8_t index)
{
    return index == SEC || index == MIN_ || index == HOUR || (index >= DAY && index <= YEAR) ||
           index == MC146818_CENTURY;
}

static uint8_t data_read(struct mc146818 *rtc)
{
    if (is_time_byte(rtc->index) && !is_stopped(rtc)) {
        time_to_ram(rtc);
    }
    switch (rtc->index) {
    case A: return read_a(rtc);
    case C: return read_c(rtc);
    default: return rtc->ram[rtc->index];
    }
}

static void write_b(struct mc146818 *rtc, uint8_t value)
{
    bool was = is_stopped(rtc);

    if (!was) {
        time_to_ram(rtc);
    }
    if ((value & B_SET) != 0) {
        value &= (uint8_t)~B_UIE;
    }
    account_seconds(rtc);
    if ((value & B_PIE) != 0 && (rtc->ram[B] & B_PIE) == 0) {
        account_periods(rtc, vmclock_now_ns(rtc->cfg.clock));
        rtc->owed = 0;
    }
    /* Leaving SET: the bytes are read in the format of the new B. Changing the format while the
     * clock runs changes how the same time is shown. */
    rtc->ram[B] = value;
    if (was && !is_stopped(rtc)) {
        time_from_ram(rtc, 0);
    }
    update_irq(rtc);
}

static void write_a(struct mc146818 *rtc, uint8_t value)
{
    bool was = is_stopped(rtc);

    if (!was) {
        time_to_ram(rtc);
    }
    rtc->ram[A] = value & 0x7f;
    if (was && !is_stopped(rtc)) {
        /* The first update comes half a second after the divider is released. */
        time_from_ram(rtc, (int64_t)NSEC_PER_SEC / 2);
    }
    rtc->seen = 0;
    account_periods(rtc, vmclock_now_ns(rtc->cfg.clock));
    rtc->owed = 0;
}

static void data_write(struct mc146818 *rtc, uint8_t value)
{
    int64_t fraction;

    switch (rtc->index) {
    case A: write_a(rtc, value); break;
    case B: write_b(rtc, value); break;
    case C:
    case D: return;
    default:
        if (is_time_byte(rtc->index) && !is_stopped(rtc)) {
            fraction = rtc_now_ns(rtc) % (int64_t)NSEC_PER_SEC;
            time_to_ram(rtc);
            rtc->ram[rtc->index] = value;
            time_from_ram(rtc, MAX(fraction, 0));
        } else {
            rtc->ram[rtc->index] = value;
        }
        break;
    }
    rearm_periodic(rtc);
    rearm_update(rtc);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned len)
{
    struct mc146818 *rtc = opaque;
    /* Port 70h is write-only; chipsets return the index. */
    uint64_t value = offset == 0 ? rtc->index | (uint64_t)rtc->nmi_mask << 7 : data_read(rtc);

    if (offset == 0 && len > 1) {
        value |= (uint64_t)data_read(rtc) << 8;
    }
    return value;
}

static void rtc_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
    struct mc146818 *rtc = opaque;

    if (offset == 0) {
        rtc->index = value & 0x7f;
        rtc->nmi_mask = value >> 7 & 1;
        if (len > 1) {
            data_write(rtc, (uint8_t)(value >> 8));
        }
    } else {
        data_write(rtc, (uint8_t)value);
    }
}

static const struct bus_ops rtc_bus_ops = {rtc_read, rtc_write};
static const struct bus_range rtc_ranges[] = {
    {.base = 0x70, .size = 2, .ops = &rtc_bus_ops, .name = "mc146818"},
};

/* The chip runs on its battery: a reset only stops its interrupts. */
static void rtc_reset_locked(struct mc146818 *rtc)
{
    rtc->ram[B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
    rtc->ram[C] = 0;
    rtc->index = 0;
    rtc->nmi_mask = 0;
    rtc->owed = 0;
    update_irq(rtc);
    rearm_periodic(rtc);
    rearm_update(rtc);
}

static void rtc_reset(struct dev *dev)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    SCOPED_LOCK(rtc->cfg.lock);
    rtc_reset_locked(rtc);
}

static const struct state_field rtc_fields[] = {
    STATE_UINT(struct mc146818, index),  STATE_UINT(struct mc146818, nmi_mask),
    STATE_BYTES(struct mc146818, ram),   STATE_UINT(struct mc146818, offset_ns),
    STATE_UINT(struct mc146818, last_s), STATE_UINT(struct mc146818, day_shift),
    STATE_UINT(struct mc146818, seen),   STATE_UINT(struct mc146818, fired_ns),
    STATE_UINT(struct mc146818, owed),   STATE_END,
};

static void rtc_save(struct dev *dev, struct state_writer *w)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    SCOPED_LOCK(rtc->cfg.lock);
    state_put_fields(w, rtc_fields, rtc);
}

static int rtc_load(struct dev *dev, struct state_reader *r, uint32_t version, struct err *err)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);
    int rc;

    (void)version;
    SCOPED_LOCK(rtc->cfg.lock);
    timer_disarm(&rtc->periodic);
    timer_disarm(&rtc->update);
    rc = state_get_fields(r, rtc_fields, rtc, err);
    rtc->index &= 0x7f;
    rtc->nmi_mask &= 1;
    rtc->ram[A] &= 0x7f;
    rtc->ram[D] = D_VRT;
    rtc->day_shift %= 7;
    rtc->last_s = MAX(rtc->last_s, 0);
    rtc->last_s = MIN(rtc->last_s, INT64_C(1) << 40);
    rtc->owed = (uint8_t)MIN(rtc->owed, MAX_OWED);
    return rc;
}

static void rtc_resume(struct dev *dev)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    SCOPED_LOCK(rtc->cfg.lock);
    account_seconds(rtc);
    update_irq(rtc);
    rearm_periodic(rtc);
    rearm_update(rtc);
}

static void rtc_free(struct dev *dev)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    bus_remove_all(rtc->cfg.pio, rtc);
    timer_done(&rtc->periodic);
    timer_done(&rtc->update);
    free(rtc);
}

static const struct dev_ops rtc_ops = {
    .name = "mc146818",
    .state_version = 1,
    .reset = rtc_reset,
    .save = rtc_save,
    .load = rtc_load,
    .resume = rtc_resume,
    .free = rtc_free,
};

int mc146818_new(struct mc146818 **ret_rtc, const struct mc146818_config *cfg, struct err *err)
{
    struct mc146818 *rtc = calloc(1, sizeof(*rtc));
    int r;

    if (rtc == NULL) {
        return ERR(err, NO_MEMORY, ENOMEM, "no memory for the real-time clock");
    }
    rtc->cfg = *cfg;
    rtc->dev = (struct dev){.ops = &rtc_ops, .lock = cfg->lock};
    rtc->offset_ns = cfg->offset_s * (int64_t)NSEC_PER_SEC;
    rtc->ram[A] = 0x26;
    rtc->ram[B] = B_24;
    rtc->ram[D] = D_VRT;
    r = timer_init(&rtc->periodic, cfg->loop, cfg->clock, periodic_fired, rtc, err);
    if (r == 0) {
        r = timer_init(&rtc->update, cfg->loop, cfg->clock, update_fired, rtc, err);
    }
    if (r == 0) {
        rtc->last_s = rtc_now_s(rtc);
        rtc_reset_locked(rtc);
        r = bus_add_ranges(cfg->pio, rtc_ranges, ARRAY_LEN(rtc_ranges), rtc, cfg->lock, err);
    }
    if (r < 0) {
        rtc_free(&rtc->dev);
        return r;
    }
    *ret_rtc = rtc;
    return 0;
}

struct dev *mc146818_dev(struct mc146818 *rtc)
{
    return &rtc->dev;
}

void mc146818_set_cmos(struct mc146818 *rtc, uint8_t index, uint8_t value)
{
    SCOPED_LOCK(rtc->cfg.lock);
    if (index > D && index < sizeof(rtc->ram) && index != MC146818_CENTURY) {
        rtc->ram[index] = value;
    }
}

bool mc146818_nmi_masked(struct mc146818 *rtc)
{
    SCOPED_LOCK(rtc->cfg.lock);
    return rtc->nmi_mask != 0;
}
