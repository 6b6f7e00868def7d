#!/usr/bin/python3
"""A stock Debian kernel boots with 1, 2 and 4 CPUs and with 128 MiB to 8 GiB."""

import vm


def boot(cpus, memory):
    mib = int(memory[:-1]) * (1024 if memory.endswith("G") else 1)
    with vm.VM(run="nproc; grep MemTotal /proc/meminfo; cat /sys/devices/system/cpu/online",
               cpus=cpus, memory=memory, cmdline="quiet viv.coldplug=off") as g:
        at = g.expect("viv.run: start")
        metrics = g.wait()
        out = g.console[at:].split()
        vm.check(int(out[0]) == cpus, f"nproc says {out[0]}, not {cpus}")
        kib = int(out[2])
        vm.check(mib * 1024 * 0.7 < kib <= mib * 1024, f"MemTotal {kib} KiB of {mib} MiB")
        vm.check("viv.run: exit 0" in g.console, "the command in the guest failed")
        vm.no_kernel_trouble(g)
        vm.check(metrics["engine"] == vm.ENGINE, f"engine {metrics['engine']}")


def one_cpu_128_mib():
    boot(1, "128M")


def two_cpus_1_gib():
    boot(2, "1G")


def four_cpus_8_gib():
    boot(4, "8G")


vm.run_cases([one_cpu_128_mib, two_cpus_1_gib, four_cpus_8_gib])
