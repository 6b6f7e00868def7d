#!/usr/bin/python3
"""Kernels as our loaders leave them in memory start on another hypervisor's CPU.

boot_test.py BOOT_IMAGE SHIM.ASM

The default guest's kernel boots by each way in that it has, with our ACPI tables, in QEMU (TCG, Q35)
under a firmware that only sets registers; it must find two CPUs and the devices of the DSDT, run a
command, and power off by ACPI. Skipped (77) without QEMU, nasm or the default guest.
"""

import os
import shutil
import subprocess
import sys
import tempfile

MIB = 256
RUN = "nproc; ls /sys/bus/acpi/devices; ls /proc/device-tree 2>/dev/null; uname -m"
WANT = ["viv.run: start", "\n2\n", "PNP0501:00", "QEMU0001:00", "PNP0A08:00", "x86_64",
        "viv.run: exit 0", "Power down"]


def skip(why):
    print(f"boot_test: skipped, {why}")
    sys.exit(77)


def guest_dir():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "vivarium/default-guest")


def extract_vmlinux(folder, kernel):
    """The ELF inside, unpacked by the helper's own libraries through boot_image's result is not
    at hand here: take the payload by the header and the distribution's tool."""
    with open(kernel, "rb") as f:
        data = f.read()
    sects = data[0x1f1] or 4
    start = (sects + 1) * 512 + int.from_bytes(data[0x248:0x24c], "little")
    payload = data[start:start + int.from_bytes(data[0x24c:0x250], "little")]
    tools = {b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
             b"\xfd7zX": ["xz", "-dc"]}
    tool = tools.get(payload[:4])
    if tool is None or shutil.which(tool[0]) is None:
        return None
    # The four bytes behind the stream are its size; tools complain about them, after the data.
    run = subprocess.run(tool, input=payload[:-4], capture_output=True, check=False)
    if not run.stdout.startswith(b"\x7fELF"):
        return None
    path = os.path.join(folder, "vmlinux")
    with open(path, "wb") as f:
        f.write(run.stdout)
    return path


def boot(folder, boot_image, kind, kernel):
    ram, rom = os.path.join(folder, "ram"), os.path.join(folder, "rom")
    made = subprocess.run(
        [boot_image, str(MIB), ram, os.path.join(folder, "shim.bin"), rom, kind, kernel,
         os.path.join(guest_dir(), "initrd.img"), f'console=ttyS0 viv.run="{RUN}" panic=-1'],
        capture_output=True, text=True, check=False)
    if made.returncode != 0:
        print(f"boot_test: {kind}: {made.stderr}")
        return False
    print(f"boot_test: {made.stdout.strip()}", flush=True)
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35,memory-backend=ram", "-cpu", "max",
            "-smp", "2", "-m", str(MIB), "-object",
            f"memory-backend-file,id=ram,size={MIB}M,mem-path={ram},share=off", "-bios", rom,
            "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]
    try:
        run = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=240,
                             check=False)
        text = run.stdout.decode(errors="replace").replace("\r", "")
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace").replace("\r", "")
        print("boot_test: it did not end")
    missing = [word for word in WANT if word not in text]
    if missing:
        print(f"{text}\nboot_test: {kind}: missing {missing}")
    return not missing


def main():
    boot_image, shim = sys.argv[1:3]
    kernel = os.path.join(guest_dir(), "vmlinuz")
    for tool in ("qemu-system-x86_64", "nasm"):
        if shutil.which(tool) is None:
            skip(f"{tool} is not installed")
    if not os.path.exists(kernel):
        skip("the default guest has not been made (image/make-guest)")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["nasm", "-f", "bin", "-o", os.path.join(folder, "shim.bin"), shim],
                       check=True)
        ways = [("linux-unpacked", kernel), ("linux64", kernel), ("linux32", kernel)]
        vmlinux = extract_vmlinux(folder, kernel)
        if vmlinux is not None:
            ways += [("pvh", vmlinux), ("vmlinux", vmlinux)]
        results = [boot(folder, boot_image, kind, path) for kind, path in ways]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
