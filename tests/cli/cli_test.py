#!/usr/bin/python3
"""The command line as a person or script meets it: usage errors, the VM spec, whole runs of a small guest.

    cli_test.py VIV GUEST [FILTER]

GUEST is tests/cli/guest.asm as a multiboot kernel: what its command line says, it does. Every run has a
deadline; none asserts on time.
"""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time

VIV, GUEST = (os.path.abspath(p) for p in sys.argv[1:3])
FILTER = sys.argv[3] if len(sys.argv) > 3 else ""
DEADLINE_S = 60
ENV = dict(os.environ, VIV_LOG="info")
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TMP = tempfile.TemporaryDirectory(prefix="viv-cli-")


class Failure(Exception):
    pass


def check(condition, *what):
    if not condition:
        raise Failure(" ".join(str(w) for w in what))


def viv(*args, stdin=b"", env=None):
    done = subprocess.run([VIV, *args], input=stdin, capture_output=True, timeout=DEADLINE_S,
                          check=False, env=dict(ENV, **(env or {})))
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def guest_args(cmdline, *more):
    return ["run", "--kernel", GUEST, "--net", "none", "--cmdline", cmdline, *more]


def path(name, content=None):
    full = os.path.join(TMP.name, name)
    if content is not None:
        with open(full, "wb") as f:
            f.write(content)
    return full


# ---- usage ----

USAGE_ERRORS = [
    ([], "want a command"),
    (["fly"], "unknown command 'fly'"),
    (["run", "--memory", "0"], "--memory: '0' is out of range: want 2M to 1T"),
    (["run", "--memory", "99999999T"], "out of range"),
    (["run", "--memory", "much"], "--memory: 'much' is not a size"),
    (["run", "--memory", "-1G"], "is not a size"),
    (["run", "--memory", "2M1"], "is not a size"),
    (["run", "--cpus", "0"], "--cpus: '0' is not a number from 1 to 64"),
    (["run", "--cpus", "65"], "1 to 64"),
    (["run", "--cpus", "1.5"], "1 to 64"),
    (["run", "--cpus", "18446744073709551617"], "1 to 64"),
    (["run", "--engine", "tcg"], "want auto, kvm, soft or interp"),
    (["run", "--disk", ""], "empty file name"),
    (["run", "--disk", "a,readonly=maybe"], "neither on nor off"),
    (["run", "--disk", "a,format=qcow2"], "want readonly=on or serial=TEXT"),
    (["run", "--kernel", "k", "--disk", "a,serial=123456789012345678901"], "at most 20 bytes"),
    (["run", "--net", "tap"], "want user[,hostfwd=...] or none"),
    (["run", "--net", "user,hostfwd=tcp:1"], "hostfwd"),
    (["run", "--net", "user,hostfwd=tcp::70000-:1"], "hostfwd"),
    (["run", "--net", "user,mac=01:00:00:00:00:00"], "multicast"),
    (["run", "--name", "../x", "--kernel", "k"], "name '../x'"),
    (["run", "--name", "x" * 64, "--kernel", "k"], "1 to 63"),
    (["run", "--cpus"], "--cpus wants a value"),
    (["run", "--cpus", "1", "--cpus", "2"], "given twice"),
    (["run", "--bogus"], "unknown option --bogus"),
    (["run", "--memry", "1G"], "did you mean --memory"),
    (["run", "a", "b"], "unexpected argument 'b'"),
    (["run", "--initrd", "x"], "--initrd belongs to --kernel"),
    (["version", "x"], "unexpected argument"),
    (["help", "fly"], "no command 'fly'"),
]


def test_usage_errors_are_one_line_and_status_2():
    for args, says in USAGE_ERRORS:
        status, out, err = viv(*args)
        check(status == 2, args, "status", status, err)
        check(out == b"" and err.count("\n") == 1 and says in err, args, repr(err))


def test_help_of_everything():
    for args in ([], ["run"], ["engines"], ["version"], ["help"]):
        status, out, err = viv("help", *args)
        check(status == 0 and out.startswith(b"Usage: viv") and err == "", args, err)
        check(all(len(line) <= 100 for line in out.decode().split("\n")), args, "long lines")
        if args:
            check(viv(*args, "--help")[1] == out, args, "--help differs from help")


def test_version():
    status, out, _ = viv("version", "--json")
    check(status == 0 and json.loads(out)["name"] == "vivarium", out)
    check(viv("--version")[1] == viv("version")[1], "--version")


def test_engines():
    status, out, err = viv("engines", "--json")
    check(status == 0 and err == "", err)
    doc = json.loads(out)
    check([e["name"] for e in doc["engines"]] == ["kvm", "soft"], doc)
    soft = doc["engines"][1]
    check(soft["usable"] and soft["supervisor_insn_per_s"] > 0, soft)
    for e in doc["engines"]:
        check(e["usable"] or e["remark"], e, "no reason")
    check(doc["auto"]["engine"] in ("kvm", "soft") and doc["auto"]["why"], doc)
    check(b"auto takes" in viv("engines")[1], "text")


def test_manual_and_completion_know_every_option():
    with open(os.path.join(TOP, "docs/man/viv.1"), encoding="utf-8") as f:
        manual = f.read()
    options = re.findall(r"^  --([a-z-]+)", viv("run", "--help")[1].decode(), re.M)
    check(len(options) > 10, options)
    for option in options:
        check(option == "help" or f".It Fl -{option}" in manual, "viv.1 lacks --" + option)
    script = ("source tools/completion/viv.bash; COMP_WORDS=(viv run --); COMP_CWORD=2; _viv; "
              "echo ${COMPREPLY[@]}; COMP_WORDS=(viv run --engine = s); COMP_CWORD=4; _viv; "
              "echo ${COMPREPLY[@]}")
    env = dict(ENV, PATH=os.path.dirname(VIV) + ":" + os.environ["PATH"])
    out = subprocess.run(["bash", "-c", script], cwd=TOP, env=env, capture_output=True,
                         text=True, check=False).stdout.split("\n")
    check(set(out[0].split()) == {"--" + o for o in options} and out[1] == "soft", out)


def test_full_stdout_is_an_error():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([VIV, "help"], stdout=full, stderr=subprocess.PIPE, check=False)
    check(done.returncode == 1 and b"No space left" in done.stderr, done)


# ---- the spec ----

def check_spec(doc):
    text = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    done = subprocess.run([os.path.join(os.path.dirname(VIV), "viv-vmm"), "--check-spec", "-"],
                          input=text, capture_output=True, timeout=DEADLINE_S, check=False)
    return done.returncode, done.stderr.decode("utf-8", "replace")


def printed_spec(*args):
    status, out, err = viv("run", "--print-spec", *args)
    check(status == 0, args, err)
    return json.loads(out)


def test_options_become_the_spec():
    doc = printed_spec("disk,,1.img", "--kernel", "k", "--initrd", "i", "--cmdline", "c d",
                       "--name", "n", "--cpus", "3", "--memory", "1.5G", "--engine", "soft",
                       "--disk", "d2,readonly=on,serial=S", "--net",
                       "user,hostfwd=tcp::1-:2,hostfwd=udp:0.0.0.0:3-:4", "--console", "c.txt",
                       "--metrics", "m.json", "--test-device")
    check(doc["disks"] == [{"path": "disk,,1.img", "readonly": False},
                           {"path": "d2", "readonly": True, "serial": "S"}], doc)
    check(doc["memory_bytes"] == 3 << 29 and doc["cpus"] == 3 and doc["engine"] == "soft", doc)
    check(doc["boot"] == {"kernel": "k", "initrd": "i", "cmdline": "c d"}, doc)
    check(doc["nets"][0]["hostfwd"] == ["tcp:127.0.0.1:1-:2", "udp:0.0.0.0:3-:4"], doc)
    check(doc["console"] == {"kind": "file", "path": "c.txt"} and doc["metrics"] == "m.json", doc)
    check(doc["test_device"] is True, doc)
    check(check_spec(doc) == (0, ""), "not accepted")


def sample(schema, depth=0):
    """A value that a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema["type"]
    if kind == "object":
        return {k: sample(v, depth + 1) for k, v in schema["properties"].items()}
    if kind == "array":
        return [sample(schema["items"], depth + 1)]
    if kind == "integer":
        return schema["minimum"]
    if kind == "boolean":
        return True
    pattern = schema.get("pattern", "")
    if "tcp" in pattern:
        return "tcp:127.0.0.1:1-:1"
    return "02:00:00:00:00:01" if ":" in pattern else "a"


def wrongs(schema, doc, where=""):
    """Documents with one thing wrong each, and where it is."""
    for bad in (None, [None], {"x": 1}, "", 0.5, -1, 1 << 64):
        if schema.get("type") == "object" and isinstance(bad, dict):
            continue
        if schema.get("type") == "string" and bad == "" and not where.endswith("kernel"):
            continue
        yield bad, where
    if schema.get("type") == "integer":
        yield schema["minimum"] - 1, where
        yield schema["maximum"] + 1, where
    if schema.get("type") == "string" and "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1), where
    if schema.get("type") == "object":
        yield dict(doc, surprise=1), where
        for key in schema.get("required", []):
            yield {k: v for k, v in doc.items() if k != key}, where


def test_parser_and_schema_agree():
    with open(os.path.join(TOP, "api/vm-spec.schema.json"), encoding="utf-8") as f:
        schema = json.load(f)
    good = sample(schema)
    good["console"] = {"kind": "file", "path": "a"}
    status, err = check_spec(good)
    check(status == 0, "the schema's example is refused:", err)

    def walk(node, doc, rebuild, where):
        for bad, place in wrongs(node, doc, where):
            status, err = check_spec(rebuild(bad))
            check(status == 2 and err.count("\n") == 1, place, repr(bad)[:60], "accepted", err)
        if node.get("type") == "object":
            for key, sub in node["properties"].items():
                walk(sub, doc[key], lambda v, k=key: rebuild(dict(doc, **{k: v})), f"{where}.{key}")
        elif node.get("type") == "array":
            walk(node["items"], doc[0], lambda v: rebuild([v]), f"{where}[0]")

    walk(schema, good, lambda v: v, "top")


def test_spec_bombs():
    for text in (b"[" * 100000, b'{"a":' * 100000, b"\xff\xfe", b"", b'{"version":1e400}',
                 b'{"version":1,"version":1,"boot":{"kernel":"k"}}', b" " * (2 << 20)):
        status, err = check_spec(text)
        check(status == 2 and err.count("\n") == 1, text[:20], status, err)


# ---- errors of a run ----

def test_missing_things_are_named():
    cases = [
        (["--kernel", "/no/such/kernel"], "/no/such/kernel: No such file"),
        (["--kernel", "/"], "/"),
        (["--kernel", GUEST, "--initrd", "/no/initrd"], "/no/initrd: No such file"),
        (["--kernel", GUEST, "--disk", "/no/disk"], "/no/disk"),
        (["--kernel", path("empty", b"")], "empty"),
        (["--kernel", path("noise", os.urandom(5000))], "noise"),
        (["--kernel", GUEST, "--console", "/no/dir/c"], "/no/dir/c"),
    ]
    for args, says in cases:
        status, _, err = viv("run", "--net", "none", *args)
        check(status == 1 and err.count("\n") == 1 and says in err, args, status, repr(err))
    status, _, err = viv("run", env={"XDG_CACHE_HOME": TMP.name})
    check(status == 1 and "make guest" in err and err.count("\n") == 1, status, err)
    status, _, err = viv("run", path("disk.img", bytes(1 << 20)))
    check(status == 2 and "--kernel" in err and err.count("\n") == 1, status, err)


def test_an_image_that_is_a_kernel_starts():
    status, out, err = viv("run", GUEST, "--net", "none")
    check(status == 0 and b"guest: " in out, status, out, err)


# ---- whole runs ----

def test_power_off_and_output():
    status, out, err = viv(*guest_args("off"))
    check((status, out, err) == (0, b"guest: off\r\n", ""), status, out, err)


def test_triple_fault_is_3():
    status, _, err = viv(*guest_args("triple"))
    check(status == 3 and "triple fault" in err and err.count("\n") == 1, status, err)


def test_panic_is_3():
    status, _, err = viv(*guest_args("panic"))
    check(status == 3 and "panicked" in err and err.count("\n") == 1, status, err)


def test_debug_exit():
    status, _, err = viv(*guest_args("exit"))
    check((status, err) == (85, ""), status, err)


def test_reset_boots_again():
    status, out, err = viv(*guest_args("reset"))
    check(status == 0 and out.count(b"guest: ") == 2, status, out, err)


def test_metrics():
    name = path("metrics.json")
    status, _, err = viv(*guest_args("init", "--metrics", name))
    check(status == 0, err)
    with open(name, encoding="utf-8") as f:
        doc = json.load(f)
    times = doc["ms_from_start"]
    check(0 < times["machine_made"] <= times["first_instruction"] <= times["init_port"]
          <= times["end"], times)
    check(doc["end"] == "poweroff" and doc["memory"]["guest_ram_bytes"] == 512 << 20, doc)
    check(0 < doc["memory"]["peak_rss_bytes"] < 64 << 20, doc["memory"])
    check(doc["exits"]["pio"] > 0 or doc["engine"] == "kvm", doc)
    status, _, err = viv(*guest_args("off", "--metrics", "/dev/full"))
    check(status == 1 and "/dev/full" in err, status, err)


def test_huge_and_tiny_memory():
    for size in ("2M", "64M", "3G", "64G", "1T"):
        status, out, err = viv(*guest_args("off", "--memory", size))
        check(status == 0 and b"guest: off" in out, size, status, err)


def test_many_cpus():
    status, _, err = viv(*guest_args("off", "--cpus", "64"))
    check(status == 0, status, err)


def test_engines_by_name():
    status, _, err = viv(*guest_args("off", "--engine", "soft"))
    check(status == 0, err)
    usable = json.loads(viv("engines", "--json")[1])["engines"][0]["usable"]
    status, _, err = viv(*guest_args("off", "--engine", "kvm"))
    check(status == 0 if usable else (status == 1 and "not usable" in err), status, err)


def test_console_to_a_file_and_to_nothing():
    name = path("console.txt")
    status, out, err = viv(*guest_args("off", "--console", name))
    with open(name, "rb") as f:
        check((status, out, f.read()) == (0, b"", b"guest: off\r\n"), status, err)
    status, out, _ = viv(*guest_args("off", "--console", "none"))
    check((status, out) == (0, b""), status, out)
    status, _, err = viv(*guest_args("off", "--console", "/dev/full"))
    check(status == 0 and "No space left" in err, status, err)


def test_input_reaches_the_guest():
    for stdin in (b"hello x", b"y" * 100000 + b"x"):
        status, out, err = viv(*guest_args("echo"), stdin=stdin)
        check(status == 0 and out.endswith(stdin), status, len(out), out[:100], err)
    name = path("input", b"from a file x")
    with open(name, "rb") as f:
        done = subprocess.run([VIV, *guest_args("echo")], stdin=f, capture_output=True,
                              timeout=DEADLINE_S, check=False)
    check(done.returncode == 0 and done.stdout.endswith(b"from a file x"), done)


def test_closed_descriptors():
    """Standard input, output and error closed, each alone."""
    for fd in (0, 1, 2):
        def close(fd=fd):
            os.close(fd)
        done = subprocess.run([VIV, *guest_args("off")], preexec_fn=close, timeout=DEADLINE_S,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        check(done.returncode == 0, fd, done)


def test_a_reader_that_went_away():
    """The guest writes on and powers off all the same."""
    with subprocess.Popen([VIV, *guest_args("flood")], stdout=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENV) as p:
        p.stdout.read(100)
        p.stdout.close()
        check(p.wait(DEADLINE_S) == 0, p.returncode, p.stderr.read())


def test_a_reader_of_small_pieces_loses_nothing():
    with subprocess.Popen([VIV, *guest_args("flood")], stdout=subprocess.PIPE, bufsize=0,
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENV) as p:
        got = b""
        while piece := p.stdout.read(700):
            got += piece
        check(p.wait(DEADLINE_S) == 0, p.returncode)
    check(got.count(b"0123456789abcde\n") == 16384, "lines:", got.count(b"\n"))


# ---- signals and terminal ----

def wait_output(fd, want, got=b""):
    end = time.monotonic() + DEADLINE_S
    while want not in got:
        check(time.monotonic() < end, "no", want, "in", got[-300:])
        if select.select([fd], [], [], 1)[0]:
            data = os.read(fd, 4096)
            check(data, "end before", want, "in", got[-300:])
            got += data
    return got


@contextlib.contextmanager
def start(cmdline, *more):
    with subprocess.Popen([VIV, *guest_args(cmdline, *more)], stdout=subprocess.PIPE,
                          stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV) as p:
        try:
            wait_output(p.stdout.fileno(), b"guest: ")
            yield p
        finally:
            p.kill()


def test_second_signal_ends():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with start("hang") as p:
            p.send_signal(sig)
            err = wait_output(p.stderr.fileno(), b"power button")
            p.send_signal(sig)
            _, rest = p.communicate(timeout=DEADLINE_S)
            check(p.returncode == 1 and b"second signal" in rest, sig, p.returncode, err, rest)


def test_power_button_powers_off():
    with start("button") as p:
        p.send_signal(signal.SIGTERM)
        p.communicate(timeout=DEADLINE_S)
        check(p.returncode == 0, p.returncode)


STARTED = set()  # processes of Terminal that were not waited for


class Terminal:
    """A run on a pseudo-terminal."""

    def __init__(self, cmdline):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(VIV, [VIV, *guest_args(cmdline)], ENV)
        STARTED.add(self.pid)
        self.got = b""

    def wait(self, want):
        self.got = wait_output(self.fd, want, self.got)

    def flags(self):
        return termios.tcgetattr(self.fd)[3]

    def end(self):
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.got += os.read(self.fd, 4096)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                STARTED.discard(self.pid)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise Failure("does not end: " + repr(self.got[-300:]))


def check_cooked(t):
    check(t.flags() & termios.ICANON and t.flags() & termios.ECHO, "terminal left raw")


def test_terminal_is_raw_and_given_back():
    t = Terminal("echo")
    t.wait(b"guest: ")
    check(not t.flags() & termios.ICANON, "not raw")
    os.write(t.fd, b"\x01h")
    t.wait(b"Ctrl-A X")
    os.write(t.fd, b"a\x03\x01\x01b")  # Ctrl-C and Ctrl-A go to the guest
    t.wait(b"a\x03\x01b")
    os.write(t.fd, b"\x01q\x01x")
    check(t.end() == 0, "status of Ctrl-A X")
    check_cooked(t)


def test_terminal_is_given_back_by_every_end():
    for cmdline, how, want in (("off", None, 0), ("triple", None, 3), ("exit", None, 85),
                               ("hang", signal.SIGSEGV, -signal.SIGSEGV),
                               ("hang", signal.SIGABRT, -signal.SIGABRT),
                               ("hang", signal.SIGQUIT, -signal.SIGQUIT)):
        t = Terminal(cmdline)
        t.wait(b"guest: ")
        if how is not None:
            os.kill(t.pid, how)
        check(t.end() == want, cmdline, how, "status")
        check_cooked(t)


def test_terminal_keys_for_power_and_reset():
    t = Terminal("button")
    t.wait(b"guest: ")
    os.write(t.fd, b"\x01r")
    while t.got.count(b"guest: button") < 2:
        t.got += wait_output(t.fd, b"n")
    os.write(t.fd, b"\x01p")
    check(t.end() == 0, "status")


def test_suspend_gives_the_terminal_back():
    t = Terminal("echo")
    t.wait(b"guest: ")
    os.kill(t.pid, signal.SIGTSTP)
    check(os.WIFSTOPPED(os.waitpid(t.pid, os.WUNTRACED)[1]), "not stopped")
    check_cooked(t)
    os.kill(t.pid, signal.SIGCONT)
    end = time.monotonic() + DEADLINE_S
    while t.flags() & termios.ICANON and time.monotonic() < end:
        time.sleep(0.01)
    os.write(t.fd, b"x")
    check(t.end() == 0, "status")
    check_cooked(t)


def test_a_terminal_that_hangs_up():
    t = Terminal("hang")
    t.wait(b"guest: ")
    os.close(t.fd)  # SIGHUP
    time.sleep(0.2)
    os.kill(t.pid, signal.SIGTERM)
    end, pid = time.monotonic() + DEADLINE_S, 0
    while pid == 0 and time.monotonic() < end:
        time.sleep(0.05)
        pid, status = os.waitpid(t.pid, os.WNOHANG)
    check(pid != 0, "does not end")
    STARTED.discard(t.pid)
    check(os.waitstatus_to_exitcode(status) == 1, status)


def test_nothing_stays_behind():
    """No descriptor of the spec or of others is left to helpers; memory of the spec is sealed."""
    with start("hang") as p:
        fds = os.listdir(f"/proc/{p.pid}/fd")
        for fd in fds:
            if int(fd) > 2:
                try:
                    with open(f"/proc/{p.pid}/fdinfo/{fd}", encoding="ascii") as f:
                        flags = int(re.search(r"flags:\s*(\d+)", f.read()).group(1), 8)
                    name = os.readlink(f"/proc/{p.pid}/fd/{fd}")
                except FileNotFoundError:
                    continue  # closed meanwhile
                check(flags & os.O_CLOEXEC, "inheritable:", name)
                check("vivarium-spec" not in name, "the spec is still open")
        p.kill()
        p.communicate()


def main():
    tests = [(n[5:], f) for n, f in sorted(globals().items()) if n.startswith("test_")]
    failed = 0
    # Under nohup it would be ignored, and what is started here would take that over.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name, test in tests:
        if FILTER not in name:
            continue
        try:
            test()
            print(f"ok    {name}", flush=True)
        except (Failure, subprocess.TimeoutExpired, OSError) as e:
            failed += 1
            print(f"FAIL  {name}: {e}", flush=True)
    for pid in STARTED:
        os.kill(pid, signal.SIGKILL)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
