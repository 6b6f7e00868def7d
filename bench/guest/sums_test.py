#!/usr/bin/python3
"""Every item of the benchmark program gives natively and in a VM of ours the same checksum.

Long enough that code becomes hot in a translating engine, too short to be a benchmark. VIV names the
program, VIV_ENGINE the engine. Exit status 77 without the default guest.
"""

import os
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import run as runner  # noqa: E402

ARGUMENTS = ["--ms", "10", "--reps", "2"]


def main():
    program = runner.program_of(runner.vm.VIV)
    with tempfile.TemporaryDirectory() as tmp:
        initrd = runner.initrd_for(program, tmp)
        figures = [runner.run(runner.command(engine, program, initrd, ARGUMENTS),
                              runner.Reader(check_clock=False)).items
                   for engine in ("native", runner.vm.ENGINE)]
    native, guest = ({n: i.checksum for n, i in items.items()} for items in figures)
    common = native.keys() & guest.keys()
    wrong = [f"{n}: {guest[n]}, natively {native[n]}" for n in common if guest[n] != native[n]]
    if wrong or len(common) < 20:
        sys.exit("sums differ or are missing\n" + "\n".join(wrong))
    print(f"{len(common)} items have the native checksums")


try:
    main()
except runner.RunError as error:
    sys.exit(f"sums_test: {error}")
