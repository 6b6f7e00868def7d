/*
 * The side of QEMU: one process for all cases. Its RAM is a file that we map, its log a pipe
 * that we read, its monitor a pipe that resets it when a case runs too long. The log has the
 * state before each instruction (-singlestep -d cpu,nochain), the ROM's filtered out.
 */
#include "lockstep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t pid;
static int log_fd = -1, mon_fd = -1;
static uint8_t *ram;
static uint32_t boots;
static char line[4096];
static size_t line_len;
static unsigned steps;

static volatile uint32_t *word(uint32_t gpa)
{
    return (volatile uint32_t *)(void *)(ram + gpa);
}

static void start_child(const char *qemu, const char *rom, int ram_fd, int log_w, int mon_r,
                        bool amd)
{
    char mem_arg[128], log_arg[64], cpu_arg[256];
    int null = open("/dev/null", O_RDWR);
    snprintf(mem_arg, sizeof(mem_arg),
             "memory-backend-file,id=m,size=16M,share=on,mem-path=/proc/self/fd/%d", ram_fd);
    snprintf(log_arg, sizeof(log_arg), "/proc/self/fd/%d", log_w);
    snprintf(cpu_arg, sizeof(cpu_arg),
             "max,vendor=%s,la57=off,pku=off,pks=off,pcid=off,phys-bits=40,svm=off",
             amd ? "AuthenticAMD" : "GenuineIntel");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(mon_r, 0);
    dup2(null, 1);
    if (getenv("LOCKSTEP_QEMU_ERRORS") == NULL) {
        dup2(null, 2);
    }
    execl(qemu, qemu, "-machine", "pc,memory-backend=m", "-object", mem_arg, "-m", "16",
          "-accel", "tcg", "-cpu", cpu_arg, "-bios", rom, "-nodefaults", "-vga", "none",
          "-display", "none", "-monitor", "stdio", "-singlestep", "-d", "cpu,nochain", "-D",
          log_arg, "-dfilter",
          "0..0xeffff,0x100000..0xfffeffff,0x100000000..0xfffffffffffffffe", (char *)NULL);
    _exit(127);
}

static void nap(void)
{
    struct timespec t = {0, 200000};
    nanosleep(&t, NULL);
}

/* Waits for the ROM's next call; false when QEMU is gone or stuck. */
static bool wait_boot(unsigned seconds)
{
    for (unsigned i = 0; i < seconds * 5000; i++) {
        if (*word(LS_BOOTS) != boots) {
            boots = *word(LS_BOOTS);
            return true;
        }
        if ((i & 255) == 255 && waitpid(pid, NULL, WNOHANG) == pid) {
            return false;
        }
        nap();
    }
    return false;
}

int ls_qemu_init(const char *rom_path, bool amd)
{
    static const char *const names[] = {"/usr/bin/qemu-system-x86_64",
                                        "/usr/local/bin/qemu-system-x86_64"};
    const char *qemu = NULL;
    for (unsigned i = 0; i < 2 && qemu == NULL; i++) {
        qemu = access(names[i], X_OK) == 0 ? names[i] : NULL;
    }
    if (qemu == NULL) {
        return 77;
    }
    int ram_fd = memfd_create("lockstep", 0), log_pipe[2], mon_pipe[2];
    if (ram_fd < 0 || ftruncate(ram_fd, (off_t)LS_RAM) != 0 || pipe(log_pipe) != 0 ||
        pipe2(mon_pipe, O_CLOEXEC) != 0) {
        return 1;
    }
    boots = 0;
    line_len = 0;
    ram = mmap(NULL, LS_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, 0);
    fcntl(log_pipe[0], F_SETFD, FD_CLOEXEC);
    fcntl(log_pipe[0], F_SETFL, O_NONBLOCK);
    fcntl(log_pipe[1], F_SETPIPE_SZ, 1 << 20);
    pid = fork();
    if (pid == 0) {
        start_child(qemu, rom_path, ram_fd, log_pipe[1], mon_pipe[0], amd);
    }
    close(log_pipe[1]);
    close(mon_pipe[0]);
    close(ram_fd);
    log_fd = log_pipe[0];
    mon_fd = mon_pipe[1];
    signal(SIGPIPE, SIG_IGN);
    return pid > 0 && ram != MAP_FAILED && wait_boot(60) ? 0 : 1;
}

void ls_qemu_done(void)
{
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    close(log_fd);
    close(mon_fd);
    munmap(ram, LS_RAM);
    pid = 0;
}

const uint8_t *ls_qemu_ram(void)
{
    return ram;
}

/* ---- the log ---- */

static uint64_t value_of(const char *s, const char *name)
{
    const char *at = strstr(s, name);
    return at != NULL ? strtoull(at + strlen(name), NULL, 16) : 0;
}

static uint16_t attr_of(uint64_t flags)
{
    return (uint16_t)(((flags >> 8) & 0xff) | ((flags >> 12) & 0xf00));
}

/* "CS =0008 00000000 ffffffff 00cf9b00 DPL=0 ..." */
static void parse_seg(const char *s, struct vcpu_seg *seg)
{
    char *end;
    seg->sel = (uint16_t)strtoull(s + 4, &end, 16);
    seg->base = strtoull(end, &end, 16);
    seg->limit = (uint32_t)strtoull(end, &end, 16);
    seg->attr = attr_of(strtoull(end, &end, 16));
}

static void parse_table(const char *s, struct vcpu_dtable *t)
{
    char *end;
    t->base = strtoull(s + 5, &end, 16);
    t->limit = (uint16_t)strtoull(end, &end, 16);
}

static void parse_gprs(const char *s, struct ls_rec *r)
{
    static const char *const names[16] = {
        "AX=",  "CX=",  "DX=",  "BX=",  "SP=",  "BP=",  "SI=",  "DI=",
        "R8 =", "R9 =", "R10=", "R11=", "R12=", "R13=", "R14=", "R15="};
    for (unsigned i = 0; i < 16; i++) {
        if (strstr(s, names[i]) != NULL) {
            r->gpr[i] = value_of(s, names[i]);
        }
    }
}

/* One line. True at the end of a record. */
static bool parse_line(const char *s, struct ls_rec *r)
{
    static const char segs[X86_NSEG][5] = {"ES =", "CS =", "SS =", "DS =", "FS =", "GS ="};
    if (strncmp(s, "RAX=", 4) == 0 || strncmp(s, "EAX=", 4) == 0) {
        memset(r, 0, sizeof(*r));
        r->code64 = s[0] == 'R';
    }
    if (s[0] == 'R' || s[0] == 'E') {
        if (strncmp(s, "RIP=", 4) == 0 || strncmp(s, "EIP=", 4) == 0) {
            r->rip = value_of(s, "IP=");
            r->rflags = value_of(s, "FL=");
            r->cpl = (unsigned)value_of(s, "CPL=");
        } else if (strncmp(s, "EFER=", 5) == 0) {
            r->efer = value_of(s, "EFER=");
            r->lma = (r->efer >> 10) & 1;
            return true;
        } else if (strncmp(s, "ES =", 4) != 0) {
            parse_gprs(s, r);
        }
    }
    for (unsigned i = 0; i < X86_NSEG; i++) {
        if (strncmp(s, segs[i], 4) == 0) {
            parse_seg(s, &r->seg[i]);
        }
    }
    if (strncmp(s, "LDT=", 4) == 0) {
        parse_seg(s, &r->ldtr);
    } else if (strncmp(s, "TR =", 4) == 0) {
        parse_seg(s, &r->tr);
    } else if (strncmp(s, "GDT=", 4) == 0) {
        parse_table(s, &r->gdtr);
    } else if (strncmp(s, "IDT=", 4) == 0) {
        parse_table(s, &r->idtr);
    } else if (strncmp(s, "CR0=", 4) == 0) {
        r->cr0 = value_of(s, "CR0=");
        r->cr2 = value_of(s, "CR2=");
        r->cr3 = value_of(s, "CR3=");
        r->cr4 = value_of(s, "CR4=");
    } else if (strncmp(s, "DR0=", 4) == 0) {
        r->dr[0] = value_of(s, "DR0=");
        r->dr[1] = value_of(s, "DR1=");
        r->dr[2] = value_of(s, "DR2=");
        r->dr[3] = value_of(s, "DR3=");
    } else if (strncmp(s, "DR6=", 4) == 0) {
        r->dr[6] = value_of(s, "DR6=");
        r->dr[7] = value_of(s, "DR7=");
    }
    return false;
}

static void add(struct ls_trace *t, const struct ls_rec *r)
{
    const struct ls_rec *last = t->n > 0 ? &t->rec[t->n - 1] : NULL;
    if (t->n < LS_MAX &&
        (last == NULL || last->rip != r->rip || last->seg[X86_CS].sel != r->seg[X86_CS].sel ||
         last->seg[X86_CS].base != r->seg[X86_CS].base || last->cpl != r->cpl)) {
        t->rec[t->n++] = *r;
    }
}

/* Takes what is in the pipe. False when there was nothing. */
static bool drain(struct ls_trace *t, struct ls_rec *r)
{
    static char buf[65536];
    ssize_t n = read(log_fd, buf, sizeof(buf));
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] != '\n') {
            line[line_len] = buf[i];
            line_len += line_len + 1 < sizeof(line);
            continue;
        }
        line[line_len] = 0;
        line_len = 0;
        if (parse_line(line, r)) {
            steps++;
            add(t, r);
        }
    }
    return n > 0;
}

bool ls_qemu_run(const uint8_t *image, struct ls_trace *t)
{
    static struct ls_rec r;
    bool reset = false;
    t->n = steps = 0;
    memset(ram, LS_FILL, LS_BOOTS);
    memset(ram + LS_GO + 4, LS_FILL, LS_IMAGE - LS_GO - 4);
    memset(ram + LS_IMAGE + LS_BYTES, LS_FILL, 0xa0000 - LS_IMAGE - LS_BYTES);
    memcpy(ram + LS_STAGE, image, LS_BYTES);
    *word(LS_GO) = boots;
    for (unsigned idle = 0; idle < 50000;) {
        if (drain(t, &r)) {
            idle = 0;
        } else if (*word(LS_BOOTS) != boots) {
            boots = *word(LS_BOOTS);
            while (drain(t, &r)) {
            }
            t->ended = !reset;
            return true;
        } else {
            if ((++idle & 63) == 0 && waitpid(pid, NULL, WNOHANG) == pid) {
                pid = 0;
                return false;
            }
            nap();
        }
        /* Too long, or waiting for an interrupt that never comes. */
        if (!reset && (t->n == LS_MAX || steps > LS_STEPS || idle == 5000)) {
            reset = true;
            if (write(mon_fd, "system_reset\n", 13) != 13) {
                return false;
            }
        }
    }
    return false;
}
