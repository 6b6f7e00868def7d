#!/usr/bin/python3
"""Boot of the stock Debian cloud kernel on the software engine beside QEMU's TCG, in one run.

Same kernel, same initrd, one CPU, 512 MiB: from the start of the program to the first line that init
writes to the serial console. The two take turns; medians and their ratio are printed. VIV names the
program. Exit status 77 without the default guest.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import common  # noqa: E402

MARK = b"first line of init"
CMDLINE = common.CMDLINE + " rdinit=/mark"
# A first process that writes a line and ends the VM.
SCRIPT = b"#!/bin/sh\necho " + MARK + b"\nexec poweroff -f\n"


def seconds_to_mark(argv, limit_s=300):
    start = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        seen, took = b"", None
        while took is None and time.monotonic() < start + limit_s:
            if not select.select([process.stdout], [], [], 1)[0]:
                continue
            data = os.read(process.stdout.fileno(), 65536)
            seen += data
            if MARK in seen:
                took = time.monotonic() - start
            elif not data:
                break
        process.kill()
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        initrd = common.initrd_with(tmp, {"mark": SCRIPT})
        programs = {"viv soft": common.viv_argv(initrd, CMDLINE)}
        if common.qemu():
            programs["qemu tcg"] = common.qemu_argv(initrd, CMDLINE)
        times = {name: [] for name in programs}
        for _ in range(args.rounds):
            for name, argv in programs.items():
                took = seconds_to_mark(argv)
                if took is None:
                    sys.exit(f"boot_bench: {name} did not come to init")
                times[name].append(took)
    medians = {name: statistics.median(t) for name, t in times.items()}
    if args.json:
        print(json.dumps({"seconds": times, "median_s": medians}))
        return
    print(f"boot of the stock kernel to the first line of init, median of {args.rounds}")
    for name, t in times.items():
        print(f"  {name:10} {medians[name]:6.2f} s   ({min(t):.2f} to {max(t):.2f})")
    if "qemu tcg" in programs:
        print(f"  ratio viv / qemu {medians['viv soft'] / medians['qemu tcg']:.2f}")


main()
