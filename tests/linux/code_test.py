#!/usr/bin/python3
"""Code that changes: user programs that write what they execute in every way, alone, through aliases,
from other threads, by the kernel and by the disk (guest/stores.c, guest/code.c); faults, signals
and single steps that must be precise (guest/precise.c)."""

import os
import tempfile

import vm

SCALE = os.environ.get("T_SCALE", "1")


def stores():
    vm.run_program("stores", environment=f"T_SCALE={SCALE}", cpus=1)


def code():
    with tempfile.NamedTemporaryFile(suffix=".raw") as disk:
        disk.truncate(16 << 20)
        vm.run_program("code", "--disk", disk.name, environment=f"T_DISK=/dev/vda T_SCALE={SCALE}")


def precise():
    vm.run_program("precise", environment=f"T_SCALE={SCALE}", cpus=2)


vm.run_cases([stores, code, precise])
