#!/usr/bin/python3
"""A stock kernel that patches its own text under load, on four CPUs: tracers, probes, static keys, BPF,
modules (guest/patch.c)."""

import os

import vm

SCALE = os.environ.get("T_SCALE", "1")


def patch(cpus):
    vm.run_program("patch", environment=f"T_SCALE={SCALE}", arguments=os.environ.get("T_CASES", ""),
                   cpus=cpus, memory="1G", deadline_s=900)


def four_cpus():
    patch(4)


vm.run_cases([four_cpus])
