#!/usr/bin/python3
"""From the start of the program to the guest's first byte on its console, beside QEMU, in one run.

start_bench.py GUEST: a multiboot guest that writes to COM1 first thing (tests/cli/guest.asm). One CPU,
128 MiB, software engine and TCG. Also prints what the VMM says of itself: time to the first
guest instruction and memory outside guest RAM. VIV names the program.
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

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VIV = os.environ.get("VIV", os.path.join(TOP, "build", "viv"))


def milliseconds_to_first_byte(argv):
    start = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        first = os.read(process.stdout.fileno(), 1)
        took = (time.monotonic() - start) * 1e3
        if not first:
            sys.exit(f"start_bench: {argv[0]} wrote nothing")
        process.stdout.read()
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("guest")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    args = parser.parse_args()
    qemu = shutil.which("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as tmp:
        metrics_path = os.path.join(tmp, "metrics.json")
        programs = {"viv soft": [VIV, "run", "--engine", "soft", "--memory", "128M", "--net",
                                 "none", "--kernel", args.guest, "--cmdline", "exit",
                                 "--metrics", metrics_path]}
        if qemu:
            programs["qemu tcg"] = [qemu, "-accel", "tcg", "-M", "q35", "-m", "128", "-nodefaults",
                                    "-nographic", "-no-reboot", "-serial", "stdio", "-device",
                                    "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", args.guest,
                                    "-append", "exit"]
        times = {name: [] for name in programs}
        metrics = []
        for _ in range(args.rounds):
            for name, argv in programs.items():
                times[name].append(milliseconds_to_first_byte(argv))
            with open(metrics_path, encoding="utf-8") as f:
                metrics.append(json.load(f))
    medians = {name: statistics.median(t) for name, t in times.items()}
    if args.json:
        print(json.dumps({"milliseconds": times, "median_ms": medians, "metrics": metrics}))
        return
    print(f"start of the program to the guest's first byte, median of {args.rounds}")
    for name, t in times.items():
        print(f"  {name:10} {medians[name]:7.1f} ms   ({min(t):.1f} to {max(t):.1f})")
    if qemu:
        print(f"  ratio viv / qemu {medians['viv soft'] / medians['qemu tcg']:.3f}")
    print("the VMM's own figures, last round: " + json.dumps(metrics[-1]))


main()
