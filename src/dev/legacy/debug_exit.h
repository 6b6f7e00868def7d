/*
 * Ports of test guests: the exit port (the guest ends the VM with a status), a write-only
 * console of bytes (debugcon), and diagnostic (POST) codes with time stamps.
 */
#pragma once

#include "dev/bus.h"
#include "dev/dev.h"
#include "dev/legacy/byteq.h"

#include <stdint.h>

/* Exit port: a write of v ends the VM with status (v << 1) | 1. */
struct debug_exit;

struct debug_exit_config {
    struct bus *pio; /* NULL: none (tests) */
    uint16_t port;   /* 0: F4h; 501h is the other usual place; 4 bytes */
    uint32_t instance;
    pthread_mutex_t *lock;                  /* the machine's device lock */
    void (*exit)(void *opaque, int status); /* vCPU's thread, lock held; status 1 to 255 */
    void *opaque;
};

int debug_exit_new(struct debug_exit **ret_port, const struct debug_exit_config *cfg,
                   struct err *err);
struct dev *debug_exit_dev(struct debug_exit *port);

/* Debug console: bytes written to the port go to the sink; reads give E9h. */
struct debugcon;

struct debugcon_config {
    struct bus *pio; /* NULL: none (tests) */
    uint16_t port;   /* 0: E9h */
    struct loop *loop;
    pthread_mutex_t *lock; /* the machine's device lock */
    struct byte_sink out;
};

int debugcon_new(struct debugcon **ret_con, const struct debugcon_config *cfg, struct err *err);
struct dev *debugcon_dev(struct debugcon *con);
void debugcon_tx_ready(struct debugcon *con); /* the sink can take more; lock not held */

/* Diagnostic code port: remembers the last code and when each was first written. */
struct post_port;

struct post_port_config {
    struct bus *pio; /* NULL: none (tests) */
    uint16_t port;   /* 0: 80h; 190h is the other usual place */
    uint32_t instance;
    pthread_mutex_t *lock; /* the machine's device lock */
    /* Each first write of a code; vCPU's thread, lock held. May be NULL. */
    void (*code)(void *opaque, uint8_t code, uint64_t host_ns);
    void *opaque;
};

#define POST_CODE_INIT 0x41 /* our guests: the first process runs */

int post_port_new(struct post_port **ret_port, const struct post_port_config *cfg,
                  struct err *err);
struct dev *post_port_dev(struct post_port *port);
uint64_t post_port_first_ns(struct post_port *port,
                            uint8_t code); /* CLOCK_MONOTONIC; 0: never */
