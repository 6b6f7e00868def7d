#!/usr/bin/python3
"""Runs the benchmark program once: in a VM of ours, in one of QEMU's TCG, or natively.

    run.py [--engine soft|interp|kvm|tcg|native] [--only sort,hash] [--viv PATH] [--perf [DIR]]

Prints each item's best time per operation as it comes. --perf samples the VMM during each
item and writes DIR/perf-ITEM.data. The program is GUEST_BENCH, or what was built beside viv.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import common  # noqa: E402
from common import vm  # noqa: E402

LIMIT_S = 300


class RunError(Exception):
    """The run gives no figures; the text says why."""


@dataclasses.dataclass
class Item:
    """One item's figures of one run: ns per operation of each repetition."""
    group: str
    op: str
    checksum: str = ""
    ns: list = dataclasses.field(default_factory=list)

    def best(self):
        return min(self.ns)


@dataclasses.dataclass
class Figures:
    """What one run gave. boot_s: from the start of the VMM to the program's first line."""
    items: dict
    boot_s: float
    seconds: float


def program_of(viv):
    path = os.environ.get("GUEST_BENCH")
    path = path or os.path.join(os.path.dirname(os.path.abspath(viv)), "bench/guest/guest_bench")
    if not os.path.exists(path):
        raise RunError(f"{path} is not there: build the target bench/guest/guest_bench")
    return path


def initrd_for(program, folder):
    with open(program, "rb") as f:
        return common.initrd_with(folder, {"bench": f.read()})


def command(engine, program, initrd, arguments, viv=vm.VIV):
    cmdline = " ".join([common.CMDLINE, "rdinit=/bench", "--", *arguments])
    if engine == "native":
        return [program, *arguments]
    if engine == "tcg":
        if not common.qemu():
            raise RunError("qemu-system-x86_64 is not installed")
        return common.qemu_argv(initrd, cmdline)
    return common.viv_argv(initrd, cmdline, engine, viv)


class Reader:
    """Takes the program's lines as they come; see main.c for what they say."""

    def __init__(self, on_run=None, on_item=None, check_clock=True):
        self.items = {}
        self.host = {}
        self.guest = {}
        self.trouble = []
        self.on_run, self.on_item, self.check_clock = on_run, on_item, check_clock

    def take(self, line):
        if "Kernel panic" in line:
            raise RunError(line)
        at = line.find("bench: ")
        if at < 0:
            return
        now = time.monotonic()
        word, *rest = line[at + len("bench: "):].split()
        if word in ("start", "end"):
            self.host[word], self.guest[word] = now, int(rest[0]) / 1e9
        elif word == "run":
            self.items[rest[0]] = Item(rest[1], " ".join(rest[2:]))
            if self.on_run:
                self.on_run(rest[0])
        elif word == "item":
            item = self.items[rest[0]]
            item.checksum, item.ns = rest[1], [float(n) for n in rest[2:]]
            if self.on_item:
                self.on_item(rest[0], item)
        elif word == "failed":
            self.trouble.append(" ".join(rest))

    def figures(self, start, tail):
        if "end" not in self.host:
            raise RunError("the program did not come to its end:\n" + tail)
        if self.trouble:
            raise RunError("; ".join(self.trouble))
        host, guest = (t["end"] - t["start"] for t in (self.host, self.guest))
        # Figures come from the guest's clock: it must go as the host's does.
        if self.check_clock and abs(guest - host) > 0.1 + 0.03 * host:
            raise RunError(f"{host:.2f} s of the host's clock are {guest:.2f} s of the guest's")
        return Figures(self.items, self.host["start"] - start, host)


def run(argv, reader, on_start=None):
    """Runs it to the end of the VM or of the program and returns its Figures."""
    start = time.monotonic()
    tail = []
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            if on_start:
                on_start(process.pid)
            for line in process.stdout:
                text = line.decode("utf-8", "replace").rstrip()
                tail = tail[-20:] + [text]
                reader.take(text)
            process.wait()
        finally:
            timer.cancel()
            process.kill()
    return reader.figures(start, "\n".join(tail))


def vmm_of(pid):
    """The process that runs the vCPUs: viv starts viv-vmm; others do it themselves."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            for child in f.read().split():
                with open(f"/proc/{child}/comm", encoding="ascii") as name:
                    if name.read().strip() == "viv-vmm":
                        return int(child)
    return pid


class Perf:
    """One `perf record` per item."""

    def __init__(self, folder):
        self.folder = folder
        self.pid = None
        self.recorder = None
        os.makedirs(folder, exist_ok=True)

    def started(self, pid):
        self.pid = pid

    def begin(self, name):
        path = os.path.join(self.folder, f"perf-{name}.data")
        self.recorder = subprocess.Popen(
            ["perf", "record", "-q", "-p", str(vmm_of(self.pid)), "-o", path],
            stdin=subprocess.DEVNULL, start_new_session=True)

    def end(self, name):
        self.recorder.send_signal(signal.SIGINT)
        self.recorder.wait()
        path = os.path.join(self.folder, f"perf-{name}.data")
        print(f"{'':14} perf report -i {path}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--engine", default="soft", help="soft, interp, kvm, tcg or native")
    parser.add_argument("--only", metavar="NAME,NAME", help="these items (native --list: all names)")
    parser.add_argument("--viv", default=vm.VIV, metavar="PATH", help="the viv to run")
    parser.add_argument("--ms", type=int, help="length of a repetition")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--list", action="store_true", help="the items' names, natively")
    parser.add_argument("--perf", nargs="?", const="perf-data", metavar="DIR")
    args = parser.parse_args()
    arguments = ["--ms", str(args.ms or (1000 if args.perf else 100)), "--reps", str(args.reps)]
    arguments += ["--only", args.only] if args.only else []
    perf = Perf(args.perf) if args.perf else None

    def show(name, item):
        print(f"{name:14} {item.best():14.3f} ns per {item.op:12} {item.checksum}", flush=True)
        if perf:
            perf.end(name)

    try:
        program = program_of(args.viv)
        if args.list:
            sys.exit(subprocess.run([program, "--list"], check=False).returncode)
        with tempfile.TemporaryDirectory() as tmp:
            argv = command(args.engine, program, initrd_for(program, tmp), arguments, args.viv)
            # perf takes its time to end, which is no fault of the guest's clock.
            reader = Reader(perf and perf.begin, show, check_clock=perf is None)
            figures = run(argv, reader, perf and perf.started)
    except RunError as e:
        sys.exit(f"run: {e}")
    print(f"{figures.seconds:.1f} s after {figures.boot_s:.2f} s to the first line")


if __name__ == "__main__":
    main()
