#!/usr/bin/python3
"""ext4 on a virtio disk: written and unmounted in the guest, checked by the host's e2fsck."""

import hashlib
import os
import shutil
import subprocess
import tempfile

import vm

WRITE = ("mount -t ext4 /dev/vda /mnt && cd /mnt && mkdir -p a/b "
         "&& dd if=/dev/urandom of=a/random bs=1M count=24 2>/dev/null "
         "&& i=0; while [ $i -lt 300 ]; do echo file $i >a/b/$i; i=$((i+1)); done "
         "; cp a/random a/copy && rm a/b/1* && sync && sha256sum a/copy && cd / && umount /mnt")


def make_disk(path, mib):
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)


def need(tool):
    path = shutil.which(tool, path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if path is None:
        vm.skip(f"{tool} is not installed")
    return path


def ext4_written_and_checked():
    e2fsck, debugfs = need("e2fsck"), need("debugfs")
    with tempfile.TemporaryDirectory() as tmp:
        disk = os.path.join(tmp, "disk.raw")
        make_disk(disk, 160)
        with vm.VM("--disk", disk, run=WRITE, cmdline="quiet", cpus=2) as g:
            at = g.expect("viv.run: start")
            g.wait()
            vm.check("viv.run: exit 0" in g.console, g.console[at:])
            in_guest = g.console[at:].split()[0]
            vm.no_kernel_trouble(g)
        subprocess.run([e2fsck, "-f", "-n", disk], check=True)
        out = os.path.join(tmp, "copy")
        subprocess.run([debugfs, "-R", f"dump a/copy {out}", disk], check=True)
        with open(out, "rb") as f:
            on_host = hashlib.sha256(f.read()).hexdigest()
        vm.check(on_host == in_guest, f"SHA-256 {on_host} on the host, {in_guest} in the guest")


def readonly_and_serial():
    need("mkfs.ext4")
    with tempfile.TemporaryDirectory() as tmp:
        disk = os.path.join(tmp, "disk.raw")
        make_disk(disk, 16)
        with open(disk, "rb") as f:
            before = f.read()
        with vm.VM("--disk", f"{disk},readonly=on,serial=VIV-42", cmdline="quiet",
                   run="cat /sys/block/vda/serial; echo; cat /sys/block/vda/ro; "
                       "dd if=/dev/zero of=/dev/vda count=1 2>&1; mount -o ro /dev/vda /mnt") as g:
            at = g.expect("viv.run: start")
            g.wait()
            vm.check(g.console[at:].split()[:2] == ["VIV-42", "1"], g.console[at:])
            vm.check("viv.run: exit 0" in g.console, g.console[at:])
        with open(disk, "rb") as f:
            vm.check(f.read() == before, "a read-only disk was written to")


vm.run_cases([ext4_written_and_checked, readonly_and_serial])
