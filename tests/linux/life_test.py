#!/usr/bin/python3
"""How a VM ends: poweroff, reboot, panic, power button, kill; and what is exited with."""

import signal

import vm

PROMPT = "# "


def shell(g):
    at = g.expect("started in")
    return g.expect(PROMPT, start=at)


def poweroff_at_the_shell():
    with vm.VM(cmdline="quiet") as g:
        at = shell(g)
        g.send("echo result $((6 * 7))\n")
        at = g.expect("result 42", start=at)
        g.send("poweroff\n")
        g.wait(0)


def reboot_then_poweroff():
    with vm.VM(cmdline="quiet") as g:
        at = shell(g)
        g.send("reboot\n")
        at = g.expect("started in", start=at)
        g.expect(PROMPT, start=at)
        g.send("poweroff\n")
        metrics = g.wait(0)
        vm.check(metrics["resets"] == 1, f"{metrics['resets']} resets, not 1")


def panic_is_a_crash():
    with vm.VM(cmdline="quiet", run="modprobe -q pvpanic_mmio; echo c >/proc/sysrq-trigger") as g:
        g.expect("Kernel panic")
        g.wait(3)
        vm.check("panic" in g.errors, f"stderr says nothing of a panic: {g.errors!r}")


def power_button():
    with vm.VM(cmdline="quiet") as g:
        shell(g)
        g.process.send_signal(signal.SIGTERM)
        g.wait(0)


def second_signal_ends_it():
    with vm.VM(cmdline="quiet", run="killall acpid; sleep 1000") as g:
        g.expect("viv.run: start")
        g.process.send_signal(signal.SIGTERM)
        g.expect("power button was pressed", stream="errors")
        g.process.send_signal(signal.SIGTERM)
        g.wait(1, deadline_s=30)
        vm.check("ended by a second signal" in g.errors, g.errors)


def nobody_reads_the_console():
    with vm.VM(run="dmesg; dmesg; true") as g:
        g.expect("Linux version")
        g.process.stdout.close()
        g.process.wait(120)
        vm.check(g.process.returncode == 0, f"ended with {g.process.returncode}")


vm.run_cases([poweroff_at_the_shell, reboot_then_poweroff, panic_is_a_crash, power_button,
              second_signal_ends_it, nobody_reads_the_console])
