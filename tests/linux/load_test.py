#!/usr/bin/python3
"""Processes, exec, pipes, sockets, mappings, signals and files in the guest, without a warning of its
kernel. LOAD_SECONDS sets how long (20; the long run is 600)."""

import os
import re
import tempfile

import vm

SECONDS = int(os.environ.get("LOAD_SECONDS", "20"))


def load(cpus):
    with tempfile.TemporaryDirectory() as tmp:
        vm.compile_static("load.c", os.path.join(tmp, "load"))
        kernel, _ = vm.guest_files()
        with vm.VM(run=f"mkdir -p /tmp; /load {SECONDS} {cpus * 2}", cpus=cpus, memory="512M",
                   kernel=kernel, initrd=vm.initrd_with(["load"], tmp)) as g:
            g.expect("viv.run: start")
            g.wait(deadline_s=SECONDS * 3 + 240)
            vm.no_kernel_trouble(g)
            vm.check("load: all well" in g.console and "viv.run: exit 0" in g.console,
                     g.console[-1500:])
            rounds = sum(int(n) for n in re.findall(r"load: (\d+) rounds", g.console))
            print(f"{cpus} CPUs: {rounds} rounds in {SECONDS} s")
            vm.check(rounds > 0, "no work was done")


def one_cpu():
    load(1)


def four_cpus():
    load(4)


vm.run_cases([one_cpu, four_cpus])
