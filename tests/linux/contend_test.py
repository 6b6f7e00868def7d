#!/usr/bin/python3
"""Threads that get in each other's way on four CPUs: locks, interprocessor interrupts, shot-down
mappings, signals, memory order (guest/contend.c). LOAD_SECONDS sets how long all cases take together
(20; the long run is 600)."""

import os

import vm

SECONDS = int(os.environ.get("LOAD_SECONDS", "20"))
SHARES = 7.2  # the cases' parts of T_SECONDS, together


def contend(cpus):
    vm.run_program("contend", environment=f"T_SECONDS={max(1, round(SECONDS / SHARES))}", cpus=cpus,
                   deadline_s=SECONDS * 4 + 240)


def four_cpus():
    contend(4)


vm.run_cases([four_cpus])
