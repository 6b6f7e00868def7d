#!/usr/bin/env python3
"""Runs one bare-metal guest of guests.ini on one engine.

usage: run_guest.py [--list] NAME ENGINE IMAGE VIV

ENGINE is soft, kvm or tcg (QEMU's emulator, the reference; needs qemu-system-x86_64). The exit status
is 0 when the guest says that all its checks passed, 77 (skipped) when the engine cannot be used
here, 1 otherwise. The guest's output goes to standard output.
"""

import configparser
import os
import shutil
import subprocess
import sys

PASS = 1  # exit status after 0 was written to the debug exit port
SKIP = 77


def read_guest(name):
    ini = configparser.ConfigParser(inline_comment_prefixes=(";",))
    ini.read(os.path.join(os.path.dirname(os.path.abspath(__file__)), "guests.ini"))
    if name not in ini:
        sys.exit(f"{name}: not in guests.ini")
    return ini[name]


def command_tcg(guest, image):
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        return None, "qemu-system-x86_64 is not installed"
    return [qemu, "-accel", "tcg", "-cpu", "max", "-m", "128", "-display", "none", "-no-reboot",
            "-nodefaults", "-serial", "none", "-debugcon", "stdio",
            "-smp", guest.get("cpus", "1"),
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", image], None


def command_viv(guest, image, viv, engine):
    if engine == "kvm":
        text = subprocess.run([viv, "engines"], capture_output=True, text=True,
                              check=False).stdout
        lines = [line for line in text.splitlines() if line.split()[:1] == ["kvm"]]
        if not lines or not usable(lines[0]):
            return None, f"no KVM here: {lines[0] if lines else 'not known'}"
    return [viv, "run", "--engine", engine, "--memory", "128M", "--net", "none",
            "--cpus", guest.get("cpus", "1"), "--kernel", image], None


def usable(line):
    """A line of viv engines: name, yes or no, speeds, remark. A KVM whose host emulates privileged
    code fails on instructions that are legal, so it cannot be judged by these guests."""
    return line.split()[1:2] == ["yes"] and "emulated" not in line


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    name, engine, image, viv = sys.argv[1:]
    guest = read_guest(name)
    if engine in guest.get("not-on", "").split():
        print(f"{name}: not for {engine}")
        return SKIP
    if engine == "tcg":
        command, why = command_tcg(guest, image)
    else:
        command, why = command_viv(guest, image, viv, engine)
    if command is None:
        print(f"{name}: skipped: {why}")
        return SKIP
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=guest.getint("timeout", 60), check=False)
    except subprocess.TimeoutExpired as late:
        sys.stdout.write((late.stdout or b"").decode("latin-1")[:4000])
        print(f"{name}: hangs on {engine}")
        return 1
    sys.stdout.write(done.stdout.decode("latin-1")[:4000])
    sys.stdout.write(done.stderr.decode("latin-1")[:4000])
    if done.returncode != PASS:
        print(f"{name}: exit status {done.returncode} on {engine}, want {PASS}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
