"""A VM under test: starts `viv run` with the default guest, watches its console, ends it.

Everything waits for an event with a deadline; a deadline that passes fails the test with the end of
the console. VIV names the program, GUEST_DIR the default guest (made when missing), VIV_ENGINE the
engine. VIVARIUM_SOFT reaches the engine as it is: its settings for stress.
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VIV = os.environ.get("VIV", os.path.join(TOP, "build", "viv"))
CACHE = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
GUEST_DIR = os.environ.get("GUEST_DIR", os.path.join(CACHE, "vivarium", "default-guest"))
ENGINE = os.environ.get("VIV_ENGINE", "soft")
SKIP = 77


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def guest_files():
    """Paths of the default guest's kernel and initrd; makes it when it is not there."""
    kernel, initrd = (os.path.join(GUEST_DIR, n) for n in ("vmlinuz", "initrd.img"))
    if not (os.path.exists(kernel) and os.path.exists(initrd)):
        made = subprocess.run([os.path.join(TOP, "image", "make-guest")], check=False)
        if made.returncode != 0:
            skip("the default guest is missing and image/make-guest cannot make it")
    return kernel, initrd


def initrd_with(files, tmp):
    """The default guest's initrd with files of folder tmp added: cpio archives may follow each
    other."""
    _, initrd = guest_files()
    names = "\n".join(files) + "\n"
    extra = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tmp, check=True,
                           input=names.encode(), stdout=subprocess.PIPE).stdout
    path = os.path.join(tmp, "initrd.img")
    with open(initrd, "rb") as f, open(path, "wb") as out:
        out.write(f.read() + extra)
    return path


def compile_static(source, out):
    """Makes a program for the guest, which has no libraries."""
    if shutil.which("cc") is None:
        skip("there is no C compiler")
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-g0", "-Wall", "-static",
                    "-pthread", "-o", out,
                    os.path.join(os.path.dirname(os.path.abspath(__file__)), source), "-lm"],
                   check=True)


class VM:
    """One run of viv. `run` is a command for the guest (viv.run), else a shell comes up."""

    def __init__(self, *options, run=None, cmdline="", memory="512M", cpus=1, kernel=None,
                 initrd=None, engine=ENGINE):
        if kernel is None:
            kernel, initrd = guest_files()
        self.metrics_path = tempfile.mktemp(prefix="viv-metrics-")
        text = f"console=ttyS0 {cmdline}"
        if run is not None:
            text += f' viv.run="{run}"'
        argv = [VIV, "run", "--engine", engine, "--memory", memory, "--cpus", str(cpus),
                "--kernel", kernel, "--cmdline", text, "--metrics", self.metrics_path]
        if initrd is not None:
            argv += ["--initrd", initrd]
        argv += options
        print("+", shlex.join(argv), flush=True)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE,
                                        env={**os.environ, "VIV_LOG": "info"})
        self.console, self.errors = "", ""
        self.lines = queue.Queue()
        self.readers = [threading.Thread(target=self._read, args=(s, n), daemon=True)
                        for s, n in ((self.process.stdout, "console"),
                                     (self.process.stderr, "errors"))]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, name):
        fd = stream.fileno()
        try:
            while data := os.read(fd, 65536):
                setattr(self, name, getattr(self, name) + data.decode("utf-8", "replace"))
                self.lines.put(None)
        except OSError:
            pass  # the test closed it

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if os.path.exists(self.metrics_path):
            os.unlink(self.metrics_path)

    def fail(self, why):
        raise AssertionError(f"{why}\n--- errors\n{self.errors[-2000:]}\n--- console\n"
                             f"{self.console[-4000:]}")

    def expect(self, text, deadline_s=120, start=0, stream="console"):
        """Waits for text on the console (or "errors") after position start; returns the position
        behind it."""
        end = time.monotonic() + deadline_s
        while True:
            at = getattr(self, stream).find(text, start)
            if at >= 0:
                return at + len(text)
            left = end - time.monotonic()
            if left <= 0:
                self.fail(f"no {text!r} on {stream} within {deadline_s} s")
            if self.process.poll() is not None and not any(r.is_alive() for r in self.readers):
                if getattr(self, stream).find(text, start) < 0:
                    self.fail(f"viv ended with {self.process.returncode} before {text!r}")
                continue
            try:
                self.lines.get(timeout=min(left, 1))
            except queue.Empty:
                pass

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait(self, status=0, deadline_s=180):
        """Waits for the end; the exit status must be as given. Returns the metrics."""
        try:
            got = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.fail(f"viv still runs after {deadline_s} s")
        for reader in self.readers:
            reader.join(10)
        if got != status:
            self.fail(f"viv ended with {got}, not {status}")
        if os.path.exists(self.metrics_path):
            with open(self.metrics_path, encoding="utf-8") as f:
                return json.load(f)
        return None


KERNEL_TROUBLE = ("BUG:", "WARNING:", "Oops", "Call Trace", "rcu: INFO", "soft lockup",
                  "hung_task", "segfault", "general protection", "traps:", "Kernel panic")


def no_kernel_trouble(vm):
    for line in vm.console.splitlines():
        for word in KERNEL_TROUBLE:
            if word in line:
                vm.fail(f"the guest's kernel says: {line}")


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def run_program(name, *options, arguments="", environment="", before="", cpus=4, memory="512M",
                deadline_s=300, more=(), trouble=True):
    """Runs guest/NAME.c in a VM; it must end with "NAME: all well". `more` are (name, path) of files
    for the guest's root folder. Returns the console."""
    with tempfile.TemporaryDirectory() as tmp:
        compile_static(f"guest/{name}.c", os.path.join(tmp, name))
        for target, path in more:
            shutil.copy(path, os.path.join(tmp, target))
        kernel, _ = guest_files()
        initrd = initrd_with([name, *(target for target, _ in more)], tmp)
        with VM(*options, run=f"{before} {environment} /{name} {arguments} 2>&1", cpus=cpus,
                memory=memory, kernel=kernel, initrd=initrd) as g:
            at = g.expect("viv.run: start")
            metrics = g.wait(deadline_s=deadline_s)
            check(f"{name}: all well" in g.console and "viv.run: exit 0" in g.console,
                  g.console[at:][-3000:])
            check(metrics["engine"] == ENGINE, f"engine {metrics['engine']}, not {ENGINE}")
            if trouble:
                no_kernel_trouble(g)
            print(g.console[at:].replace("\r", ""), flush=True)
            return g.console[at:]


def run_cases(cases):
    """Runs functions one after the other; exit status 1 when one fails."""
    wanted = sys.argv[1:]
    failed = []
    for case in cases:
        if wanted and case.__name__ not in wanted:
            continue
        print(f"== {case.__name__}", flush=True)
        try:
            case()
        except AssertionError as e:
            print(f"FAILED {case.__name__}: {e}", flush=True)
            failed.append(case.__name__)
    if failed:
        print("failed: " + ", ".join(failed))
        sys.exit(1)
