#!/usr/bin/python3
"""The KVM engine on a KVM with real semantics, on any host: inside a VM of QEMU's TCG with SVM.

    inner_kvm_test.py BUILD_DIR [--part test|engines|linux|smp]... [--keep]

Boots the default guest's stock kernel under `qemu-system-x86_64 -accel tcg -cpu max,+svm` with the
package's own kvm_amd module and the programs of BUILD_DIR added to the initramfs, and runs there:

    test      src/cpu/kvm/kvm_test: every test, nothing skipped for want of TSC offsets
    engines   viv engines: KVM must be usable
    linux     viv run --engine kvm with the stock kernel, to a command's output and power-off
    smp       the same with two CPUs

Takes minutes (TCG below, SVM in it, a kernel on top), so it is a target of its own (inner-kvm) and
not part of the quick suite. Exit status 77 when QEMU or the packages cannot be had.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "image"))
# pylint: disable=wrong-import-position
from guestimage.cpio import Archive
from guestimage.modules import ModuleTree
from guestimage.packages import Fetcher, PackageError

SKIP = 77
PARTS = ("test", "engines", "linux", "smp")
TIMEOUT_S = {"test": 300, "engines": 200, "linux": 900, "smp": 1200}
MODULES = ["kvm", "kvm_amd", "kvm-amd", "irqbypass"]

RUN_LINUX = ("/inner/viv run --engine kvm --cpus %d --memory 256M --kernel /inner/vmlinuz"
             " --initrd /inner/initrd.img --console stdio --net none --cmdline"
             " 'console=ttyS0 viv.net=off viv.run=\"uname -r; cat /proc/cpuinfo\"'"
             " </dev/null; echo part: %s: $?")
SCRIPTS = {
    "test": "/inner/kvm_test; echo part: test: $?",
    "engines": "/inner/viv engines; echo part: engines: $?",
    "linux": RUN_LINUX % (1, "linux"),
    "smp": RUN_LINUX % (2, "smp"),
}


def cache_dir(name):
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "vivarium", name)


def say(text):
    print("inner-kvm:", text, file=sys.stderr, flush=True)


def default_guest():
    """Kernel, initramfs and the kernel package's name without version and architecture."""
    out = cache_dir("default-guest")
    run = subprocess.run([os.path.join(TOP, "image/make-guest")], check=False)
    if run.returncode != 0:
        raise PackageError("no default guest")
    with open(os.path.join(out, "guest.json"), encoding="utf-8") as f:
        name = re.search(r'"(linux-image-[^"_]+)_([^"_]+)_', f.read())
    return os.path.join(out, "vmlinuz"), os.path.join(out, "initrd.img"), name.group(1)


def kvm_modules(package):
    """The module files of that kernel, in loading order; kept in the cache."""
    out = os.path.join(cache_dir("inner-kvm"), package)
    names = ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"]
    if not all(os.path.isfile(os.path.join(out, n)) for n in names):
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            root, _ = Fetcher(work, say).unpack(package)
            tree = ModuleTree(root)
            chosen, _ = tree.closure(["kvm_amd"])
            for module in chosen:
                with open(os.path.join(out, module + ".ko"), "wb") as f:
                    f.write(tree.load(module))
    have = [n for n in sorted(os.listdir(out)) if n.endswith(".ko")]
    last = [n for n in names if n in have]
    return [os.path.join(out, n) for n in have if n not in last] + \
           [os.path.join(out, n) for n in last]


def add_file(archive, target, source, mode=0o755):
    with open(source, "rb") as f:
        archive.file(target, f.read(), mode)


def add_program(archive, target, source):
    """A program and the libraries that it is linked with, at their own places."""
    add_file(archive, target, source)
    run = subprocess.run(["ldd", source], capture_output=True, text=True, check=True)
    for path in re.findall(r"(?:=> |^\s*)(/\S+)", run.stdout, re.M):
        # /lib64 is a link to /lib in the guest.
        add_file(archive, re.sub(r"^/lib64/", "/lib/", path), path)


def make_initrd(target, build, parts, kernel, initrd, modules):
    archive = Archive()
    lines = ["set -e", "cd /inner/modules"]
    for path in modules:
        name = os.path.basename(path)
        add_file(archive, "/inner/modules/" + name, path, 0o644)
        lines.append("insmod ./" + name)
    lines += ["set +e", "ls -l /dev/kvm"]
    if "test" in parts:
        add_program(archive, "/inner/kvm_test", os.path.join(build, "src/cpu/kvm/kvm_test"))
    if parts != ["test"]:
        # viv and the programs beside it.
        for name in sorted(os.listdir(build)):
            path = os.path.join(build, name)
            if re.fullmatch(r"viv(-[a-z]+)*", name) and os.path.isfile(path):
                add_program(archive, "/inner/" + name, path)
    if "linux" in parts or "smp" in parts:
        add_file(archive, "/inner/vmlinuz", kernel, 0o644)
        add_file(archive, "/inner/initrd.img", initrd, 0o644)
    lines += [SCRIPTS[p] for p in parts]
    archive.file("/inner/run.sh", ("\n".join(lines) + "\n").encode(), 0o755)
    with open(initrd, "rb") as f, open(target, "wb") as out:
        base = f.read()
        out.write(base + bytes(-len(base) % 512) + archive.to_bytes())


def boot(kernel, initrd, parts, log_path):
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,+svm", "-smp", "1", "-m", "2048",
            "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
            "-initrd", initrd, "-append",
            'console=ttyS0 panic=-1 viv.net=off viv.coldplug=off viv.run="sh /inner/run.sh"']
    with open(log_path, "wb") as log:
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                           timeout=120 + sum(TIMEOUT_S[p] for p in parts), check=False)
        except subprocess.TimeoutExpired:
            say("time is up")
    with open(log_path, encoding="utf-8", errors="replace") as log:
        return log.read().replace("\r", "")


def judge(part, text):
    """What is wrong with a part's output, None if nothing."""
    status = re.search(rf"^part: {part}: (\d+)$", text, re.M)
    if status is None:
        return "did not end"
    if status.group(1) != "0":
        return "exit status " + status.group(1)
    if part == "test" and "ignores TSC offsets" in text:
        return "KVM here ignores TSC offsets"
    if part == "engines" and not re.search(r"^kvm\s+yes", text, re.M):
        return "viv engines does not call KVM usable"
    if part in ("linux", "smp"):
        inner = text.rpartition(f"part: {part}:")[0].partition("viv.run: start")[2]
        if "viv.run: exit 0" not in inner:
            return "the guest did not run its command"
        if len(re.findall(r"^processor\s*: \d", inner, re.M)) != (2 if part == "smp" else 1):
            return "the guest has not the CPUs that it should"
        # QEMU's SVM does not intercept XSETBV: KVM does not know which state the guest switched on,
        # so CPUID gives a size that Linux warns about. No other warning is right.
        if inner.count("cut here") > inner.count("XSAVE consistency problem"):
            return "the guest's kernel warned"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("build")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--keep", action="store_true", help="keep the initramfs and the log")
    args = parser.parse_args()
    parts = args.part or list(PARTS)
    if shutil.which("qemu-system-x86_64") is None:
        say("skip: qemu-system-x86_64 is not installed")
        return SKIP
    work = tempfile.mkdtemp(prefix="viv-inner-kvm-")
    try:
        try:
            kernel, initrd, package = default_guest()
            modules = kvm_modules(package)
        except PackageError as error:
            say(f"skip: {error}")
            return SKIP
        failed = 0
        for part in parts:
            image, log = os.path.join(work, part + ".img"), os.path.join(work, part + ".log")
            make_initrd(image, args.build, [part], kernel, initrd, modules)
            text = boot(kernel, image, [part], log)
            wrong = judge(part, text)
            print(f"{part}: {'passed' if wrong is None else 'FAILED: ' + wrong}", flush=True)
            if wrong is not None:
                failed += 1
                print("\n".join("    " + line for line in text.splitlines()[-60:]), flush=True)
        return 1 if failed else 0
    finally:
        if args.keep:
            say("kept in " + work)
        else:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
