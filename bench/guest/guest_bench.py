#!/usr/bin/python3
"""The benchmark program on the software engine, on QEMU's TCG and natively, in one run.

Same binary, kernel, initrd, memory and one CPU; the three take turns. Of an item's repetitions in
one run the best counts, of runs the median. Ends with the bounds that the software engine is to
keep. A checksum that differs is an error, and so is a guest whose clock does not go as the host's.
VIV names the program.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import run as runner  # noqa: E402

GROUPS = ("integer", "memory", "fp", "system")


def geomean(values):
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else math.nan


class Comparison:
    """All runs of one benchmark: figures[system] is a list of runner.Figures."""

    def __init__(self, systems):
        self.figures = {system: [] for system in systems}

    def add(self, system, figures):
        self.figures[system].append(figures)

    def names(self):
        """Items that every run had, in the program's order."""
        runs = [set(n for n, i in f.items.items() if i.ns) for fs in self.figures.values() for f in fs]
        first = next(iter(self.figures.values()))[0].items
        return [n for n in first if all(n in names for names in runs)]

    def absent(self):
        names = set(n for fs in self.figures.values() for f in fs for n in f.items)
        return sorted(names - set(self.names()))

    def item(self, name):
        return next(iter(self.figures.values()))[0].items[name]

    def check(self):
        """Every run of every system has the same checksums."""
        wrong = []
        for name in self.names():
            sums = {s: sorted({f.items[name].checksum for f in fs})
                    for s, fs in self.figures.items()}
            if len({c for cs in sums.values() for c in cs}) != 1:
                wrong.append(f"{name}: {sums}")
        if wrong:
            raise runner.RunError("checksums differ\n" + "\n".join(wrong))

    def ns(self, system, name):
        return statistics.median(f.items[name].best() for f in self.figures[system])

    def boot(self, system):
        return statistics.median(f.boot_s for f in self.figures[system])

    def ratio(self, over, under, names):
        """Geometric mean of time on `over` to time on `under`."""
        return geomean([self.ns(over, n) / self.ns(under, n) for n in names])

    def group(self, group):
        return [n for n in self.names() if self.item(n).group == group]


def bounds(c, engine, engine_bytes):
    """Rows (what, figure, bound, whether it holds); figures that need more runs are left out."""
    names = c.names()
    rows = []

    def at_least(what, value, bound):
        if not math.isnan(value):
            rows.append((what, value, f">= {bound}", value >= bound))

    def at_most(what, value, bound):
        rows.append((what, value, f"<= {bound}", value <= bound))

    if "tcg" in c.figures and names:
        times = {n: c.ns("tcg", n) / c.ns(engine, n) for n in names}
        slowest = min(times, key=times.get)
        at_least("all items, times TCG", geomean(list(times.values())), 5)
        at_least(f"worst item ({slowest}), times TCG", times[slowest], 1.5)
        at_least("floating point and SIMD, times TCG", c.ratio("tcg", engine, c.group("fp")), 15)
        at_most("boot to init, share of TCG's time", c.boot(engine) / c.boot("tcg"), 0.5)
    for group in ("integer", "memory"):
        at_least(f"{group}, share of native speed", c.ratio("native", engine, c.group(group)), 0.4)
    if engine_bytes is not None:
        at_most("code cache and tables, MiB", engine_bytes / (1 << 20), 64)
    return rows


def scaled(ns):
    for unit in ("ns", "us", "ms"):
        if ns < 1000:
            return f"{ns:.2f} {unit}" if ns < 100 else f"{ns:.0f} {unit}"
        ns /= 1000
    return f"{ns:.2f} s"


def print_table(c, engine):
    systems = list(c.figures)
    has_tcg = "tcg" in systems
    print(f"{'item':12} {'per':12} {'native':>10} {engine:>10} {'tcg':>10}"
          f" {'of native':>10} {'x TCG':>8}")

    def ratios(names):
        text = f" {c.ratio('native', engine, names):10.1%}"
        return text + (f" {c.ratio('tcg', engine, names):8.2f}" if has_tcg else "")

    for group in GROUPS:
        names = c.group(group)
        for name in names:
            times = [scaled(c.ns(s, name)) if s in systems else "-"
                     for s in ("native", engine, "tcg")]
            print(f"{name:12} {c.item(name).op:12} " + " ".join(f"{t:>10}" for t in times)
                  + ratios([name]))
        if names:
            print(f"  {group + ', geometric mean':55}" + ratios(names) + "\n")
    if c.names():
        print(f"  {'all items, geometric mean':55}" + ratios(c.names()))
    if c.absent():
        print("not on all: " + ", ".join(c.absent()))
    print("start to the program's first line: "
          + ", ".join(f"{s} {c.boot(s):.2f} s" for s in systems if s != "native"))


def as_object(c, engine, rows):
    items = {n: {"group": c.item(n).group, "per": c.item(n).op,
                 "ns": {s: c.ns(s, n) for s in c.figures},
                 "all_ns": {s: [f.items[n].ns for f in fs] for s, fs in c.figures.items()}}
             for n in c.names()}
    return {"engine": engine, "items": items, "absent": c.absent(),
            "boot_s": {s: [f.boot_s for f in fs] for s, fs in c.figures.items() if s != "native"},
            "bounds": [{"what": w, "value": v, "bound": b, "holds": h} for w, v, b, h in rows]}


def measure(args, say):
    """Runs everything; the Comparison and the largest memory of the engine in bytes, or None."""
    viv = runner.vm.VIV
    program = runner.program_of(viv)
    arguments = ["--ms", str(args.ms), "--reps", "2" if args.quick else "3"]
    arguments += ["--only", args.only] if args.only else []
    engine_bytes = None
    with tempfile.TemporaryDirectory() as tmp:
        initrd = runner.initrd_for(program, tmp)
        metrics = os.path.join(tmp, "metrics.json")
        argvs = {s: runner.command(s, program, initrd, arguments, viv)
                 for s in ("native", args.engine, "tcg") if s != "tcg" or runner.common.qemu()}
        argvs[args.engine] += ["--metrics", metrics]
        c = Comparison(argvs)
        for number in range(args.rounds):
            for system, argv in argvs.items():
                say(f"round {number + 1} of {args.rounds}: {system}")
                try:
                    c.add(system, runner.run(argv, runner.Reader()))
                except runner.RunError as e:
                    raise runner.RunError(f"{system}: {e}") from e
            with open(metrics, encoding="utf-8") as f:
                now = json.load(f).get("memory", {}).get("engine_bytes")
                engine_bytes = max(now, engine_bytes or 0) if now is not None else engine_bytes
    c.check()
    if not c.names():
        raise runner.RunError("no item was measured on all")
    return c, engine_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--ms", type=int, help="length of a repetition")
    parser.add_argument("--engine", default="soft", help="ours: soft, interp or kvm")
    parser.add_argument("--only", metavar="NAME,NAME", help="these items")
    parser.add_argument("--strict", action="store_true", help="fail when a bound does not hold")
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.ms = args.ms or (40 if args.quick else 100)

    def say(text):
        if sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)

    try:
        c, engine_bytes = measure(args, say)
    except runner.RunError as e:
        sys.exit(f"guest_bench: {e}")
    rows = bounds(c, args.engine, engine_bytes)
    if args.json:
        print(json.dumps(as_object(c, args.engine, rows)))
    else:
        print(f"work in the guest, one CPU, {runner.common.MEMORY_MIB} MiB, {args.rounds} rounds")
        print_table(c, args.engine)
        print("bounds")
        for what, value, bound, holds in rows:
            print(f"  {what:45} {value:7.2f}   {bound:7}  {'yes' if holds else 'NO'}")
    if args.strict and not all(holds for *_, holds in rows):
        sys.exit(1)


main()
