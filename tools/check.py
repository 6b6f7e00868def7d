#!/usr/bin/python3
"""Builds and runs every test, and ends with the line `N passed, N failed, N skipped`.

Counts each test of `meson test` as one (exit status 77 is a skip), and with --all also each lint
and the tests of the address- and undefined-behaviour-sanitizer build. Exit status 0 when nothing
failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# clang-tidy is left to `make lint`: it takes longer than all the rest.
LINTS = ["format", "layers", "lengths", "words", "cppcheck"]
RESERVE_S = 90  # kept for the end when minutes are limited


class Tally:
    def __init__(self, minutes):
        self.start = time.monotonic()
        self.end = self.start + minutes * 60 if minutes else None
        self.passed = self.failed = self.skipped = 0
        self.failures, self.skips = [], []

    def left_s(self):
        return None if self.end is None else self.end - time.monotonic() - RESERVE_S

    def add(self, name, result):
        if result == "OK" or result == "EXPECTEDFAIL":
            self.passed += 1
        elif result == "SKIP":
            self.skipped += 1
            self.skips.append(name)
        else:
            self.failed += 1
            self.failures.append(f"{name} ({result.lower()})")

    def skip(self, name, why):
        say(f"{name}: skipped, {why}")
        self.add(name, "SKIP")


def say(text):
    print(f"check: {text}", flush=True)


def run(argv, limit_s=None, **kwargs):
    """Exit status, or None when it took too long; then it and all its children are ended."""
    with subprocess.Popen(argv, cwd=TOP, stdin=subprocess.DEVNULL, start_new_session=True,
                          **kwargs) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def build(kind, tally):
    say(f"building ({kind})")
    # The other compiler, so that both have seen every file.
    compiler = ["CC=clang"] if kind == "asan" else []
    status = run(["make", "-s", f"BUILD={kind}", *compiler], tally.left_s())
    if status != 0:
        tally.add(f"build {kind}", "OK" if status == 0 else "FAIL")
        return None
    return os.path.join(TOP, "build" if kind == "default" else f"build-{kind}")


def meson_tests(kind, tally, suites):
    folder = build(kind, tally)
    if folder is None:
        return
    log = os.path.join(folder, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    argv = ["meson", "test", "-C", folder, "--no-rebuild", "--print-errorlogs",
            "--num-processes", str(os.cpu_count() or 1)]
    for suite in suites:
        argv += ["--suite", suite]
    if not suites:
        argv += ["--no-suite", "stress"]  # takes too long; by name: --suite stress
    if kind != "default":
        argv += ["--timeout-multiplier", "5"]
    say(f"testing ({kind})")
    status = run(argv, tally.left_s())
    seen = 0
    if os.path.exists(log):
        with open(log, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut off by the time limit
                seen += 1
                tally.add(f"{kind}: {record['name']}", record["result"])
    if status is None:
        tally.add(f"{kind}: the tests ran out of time", "TIMEOUT")
    elif seen == 0:
        tally.add(f"{kind}: meson test ran nothing", "FAIL")


def lint(name, tally):
    status = run(["tools/lint.sh", name], tally.left_s())
    if status is None:
        tally.skip(f"lint {name}", "out of time")
    else:
        tally.add(f"lint {name}", {0: "OK", 77: "SKIP"}.get(status, "FAIL"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--all", action="store_true", help="also lints and sanitizers")
    parser.add_argument("--minutes", type=float, help="leave out what does not fit")
    parser.add_argument("--suite", action="append", default=[], help="only this suite of tests")
    args = parser.parse_args()
    tally = Tally(args.minutes)

    status = run(["image/make-guest"], tally.left_s())
    if status != 0:
        say("the default guest could not be made: tests that boot it are skipped")
    meson_tests("default", tally, args.suite)
    if args.all:
        for name in LINTS[:4]:
            lint(name, tally)
        left = tally.left_s()
        if left is not None and left < 240:
            tally.skip("sanitizer build", "out of time")
        else:
            meson_tests("asan", tally, ["unit", "fuzz"])
        for name in LINTS[4:]:
            lint(name, tally)
    for name in tally.skips:
        say(f"skipped: {name}")
    for name in tally.failures:
        say(f"FAILED: {name}")
    say(f"took {(time.monotonic() - tally.start) / 60:.1f} minutes")
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
