#!/usr/bin/python3
"""Time from starting the VMM to init's first line, ours beside QEMU's TCG, in one run.

boot_bench.py [--rounds N] [--json]     the program is $VIV, else build/viv; 77 without QEMU or guest

Guest: the default one (stock Debian cloud kernel, busybox), 1 vCPU, 512 MiB, no disk, no network,
`quiet`. Rounds alternate between the two, so that a slow moment of the host meets both; prints each time
and the ratio of the medians. Ours is measured twice: at init's line on the console, as for QEMU, and by
the VMM's own clock at init's first signal (--metrics).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT_S = 600
CMDLINE = 'console=ttyS0 quiet viv.net=off viv.run="true"'
MARK = b"Vivarium guest"


def guest(name):
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "vivarium/default-guest", name)


def time_to_mark(argv):
    """Seconds until MARK is in the output; the process is then left to power off."""
    start = time.monotonic()
    seen, found = b"", None
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        while chunk := process.stdout.read1(4096):
            seen += chunk
            if found is None and MARK in seen:
                found = time.monotonic() - start
            if time.monotonic() - start > LIMIT_S:
                process.kill()
        status = process.wait()
    if found is None:
        sys.exit(f"boot_bench: {argv[0]} (status {status}) gave no greeting:\n"
                 + seen.decode(errors="replace")[-2000:])
    return found


def ours(viv, engine):
    with tempfile.TemporaryDirectory() as folder:
        metrics = os.path.join(folder, "metrics.json")
        seconds = time_to_mark(
            [viv, "run", "--engine", engine, "--cpus", "1", "--memory", "512M", "--kernel",
             guest("vmlinuz"), "--initrd", guest("initrd.img"), "--cmdline", CMDLINE,
             "--metrics", metrics])
        with open(metrics, encoding="utf-8") as f:
            return seconds, json.load(f)


def qemu():
    return time_to_mark(
        ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", "max", "-smp", "1", "-m",
         "512", "-kernel", guest("vmlinuz"), "-initrd", guest("initrd.img"), "-append", CMDLINE,
         "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    args = parser.parse_args()
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    viv = os.environ.get("VIV") or os.path.join(top, "build/viv")
    if shutil.which("qemu-system-x86_64") is None or not os.path.exists(guest("vmlinuz")):
        print("boot_bench: skipped, needs qemu-system-x86_64 and the default guest (make guest)")
        return 77
    mine, theirs, last = [], [], {}
    for number in range(1, args.rounds + 1):
        seconds, last = ours(viv, "soft")
        mine.append(seconds)
        theirs.append(qemu())
        if not args.json:
            print(f"round {number}: viv soft {mine[-1]:.2f} s, QEMU TCG {theirs[-1]:.2f} s",
                  flush=True)
    a, b = statistics.median(mine), statistics.median(theirs)
    if args.json:
        print(json.dumps({"viv_soft_s": mine, "qemu_tcg_s": theirs, "viv_median_s": a,
                          "qemu_median_s": b, "ratio": a / b, "metrics": last}))
    else:
        print(f"boot to init's first line: viv soft {a:.2f} s, QEMU TCG {b:.2f} s, "
              f"ratio {a / b:.2f}")
        print("viv, last round: " + json.dumps(last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
