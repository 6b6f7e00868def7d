"""What the benchmarks share: the command lines of what is compared, and an initrd with files added.

Both machines get the same kernel, the same initrd, one CPU, the same memory and no devices that the
guest does not use.
"""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/linux"))
import vm  # noqa: E402

MEMORY_MIB = 512
CMDLINE = "console=ttyS0 quiet panic=-1"


def initrd_with(folder, files):
    """The default guest's initrd with files (name: bytes) in its root, all executable; its path."""
    root = os.path.join(folder, "root")
    os.makedirs(root, exist_ok=True)
    for name, data in files.items():
        path = os.path.join(root, name)
        with open(path, "wb") as f:
            f.write(data)
        os.chmod(path, 0o755)
    extra = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, check=True,
                           input="\n".join(files).encode() + b"\n", stdout=subprocess.PIPE).stdout
    path = os.path.join(folder, "initrd.img")
    with open(vm.guest_files()[1], "rb") as f, open(path, "wb") as out:
        out.write(f.read() + extra)
    return path


def viv_argv(initrd, cmdline, engine="soft", viv=vm.VIV):
    return [viv, "run", "--engine", engine, "--memory", f"{MEMORY_MIB}M", "--net", "none",
            "--kernel", vm.guest_files()[0], "--initrd", initrd, "--cmdline", cmdline]


def qemu():
    """QEMU's path, None when it is not installed."""
    return shutil.which("qemu-system-x86_64")


def qemu_argv(initrd, cmdline):
    return [qemu(), "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", str(MEMORY_MIB),
            "-smp", "1", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
            "-kernel", vm.guest_files()[0], "-initrd", initrd, "-append", cmdline]
