#!/usr/bin/python3
"""A VM under load moves between machines, and engines, at random moments: the guest's programs check
themselves meanwhile. VIV_ENGINES is the list to go round (soft,soft), MOVES how often (25),
VM_SAVE_TEST the program that moves (tests/machine/vm_save_test.c)."""

import os
import subprocess
import sys
import tempfile

import vm

ENGINES = os.environ.get("VIV_ENGINES", f"{vm.ENGINE},{vm.ENGINE}")
MOVES = os.environ.get("MOVES", "25")
MOVER = os.environ.get("VM_SAVE_TEST",
                       os.path.join(os.path.dirname(vm.VIV), "tests/machine/vm_save_test"))
SCRIPT = """
mkdir -p /tmp; cd /tmp; bad=0
/load 12 2 >/tmp/load.out 2>&1 & load=$!
(while [ -e /proc/$load ]; do /stores || echo bad; done) >/tmp/stores.out 2>&1 &
T_SECONDS=1 /contend atomics locks shootdown migration queued_signals || bad=1
/code rewrite next_instruction alias remap forks thread_jump || bad=2
/precise faults strings self_steps debugger_int3 timer_looks timer_sums || bad=3
wait $load || bad=4
wait
grep -q bad /tmp/stores.out && bad=5
tail -n 3 /tmp/load.out /tmp/stores.out
dmesg | grep -E 'BUG|WARNING|Oops|rcu: INFO|lockup'
echo result=$bad
echo moved=end
"""


def move(cpus):
    if not os.access(MOVER, os.X_OK):
        vm.skip(f"{MOVER} is not built")
    with tempfile.TemporaryDirectory() as tmp:
        names = ["load", "stores", "code", "contend", "precise"]
        for name in names:
            source = "load.c" if name == "load" else f"guest/{name}.c"
            vm.compile_static(source, os.path.join(tmp, name))
        with open(os.path.join(tmp, "script"), "w", encoding="ascii") as f:
            f.write(SCRIPT)
        initrd = vm.initrd_with([*names, "script"], tmp)
        done = subprocess.run([MOVER, ENGINES, str(cpus), "default-guest", initrd, MOVES,
                               "sh /script", "moved=end"], check=False, capture_output=True,
                              text=True, errors="replace", timeout=600)
        text = done.stdout.replace("\r", "")
        print(text, done.stderr[-4000:], flush=True)
        if done.returncode == vm.SKIP:
            sys.exit(vm.SKIP)
        vm.check(done.returncode == 0, f"ended with {done.returncode}")
        vm.check("result=0" in text, "a program in the guest has failed")
        for word in ("BUG:", "WARNING:", "Oops", "rcu: INFO", "lockup"):
            vm.check(word not in text, f"the guest's kernel says {word}")


def one_cpu():
    move(1)


def four_cpus():
    move(4)


vm.run_cases([one_cpu, four_cpus])
