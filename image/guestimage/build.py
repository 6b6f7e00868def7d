"""Puts a guest together: kernel file, initramfs, and a stamp that says what they were made from."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile

from . import outb, recipe
from .cpio import Archive
from .modules import ModuleTree
from .packages import Fetcher, PackageError

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHUTDOWN_NAMES = ("poweroff", "reboot", "halt")


def recipe_hash(test, extra_files):
    """Changes whenever something of ours that goes into the image changes."""
    digest = hashlib.sha256(b"test" if test else b"default")
    for base in ("guestimage", "rootfs"):
        for folder, dirs, files in sorted(os.walk(os.path.join(HERE, base))):
            dirs.sort()
            for name in sorted(files):
                if name.endswith(".pyc"):
                    continue
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    digest.update(os.path.relpath(path, HERE).encode() + b"\0" + f.read())
    for guest_path, host_path in sorted(extra_files):
        with open(host_path, "rb") as f:
            digest.update(guest_path.encode() + b"\0" + f.read())
    return digest.hexdigest()


def up_to_date(out, want_hash):
    try:
        with open(os.path.join(out, "guest.json"), encoding="utf-8") as f:
            stamp = json.load(f)
        return stamp["recipe"] == want_hash and all(
            os.path.getsize(os.path.join(out, name)) == size
            for name, size in stamp["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find_kernel(root):
    boot = os.path.join(root, "boot")
    names = [n for n in os.listdir(boot) if n.startswith("vmlinuz-")]
    if len(names) != 1:
        raise PackageError(f"the kernel package holds {len(names)} files boot/vmlinuz-*, not one")
    return os.path.join(boot, names[0])


def find_busybox(root):
    for path in ("bin/busybox", "usr/bin/busybox"):
        if os.path.isfile(os.path.join(root, path)):
            return os.path.join(root, path)
    raise PackageError("package busybox-static holds no bin/busybox")


def add_rootfs(archive):
    top = os.path.join(HERE, "rootfs")
    for folder, dirs, files in os.walk(top):
        dirs.sort()
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                data = f.read()
            archive.file(os.path.relpath(path, top), data,
                         0o755 if data.startswith(b"#!") else 0o644)


def add_busybox(archive, path):
    with open(path, "rb") as f:
        archive.file("bin/busybox", f.read(), 0o755)
    run = subprocess.run([path, "--list-full"], capture_output=True, text=True, check=True)
    for applet in run.stdout.split():
        if os.path.basename(applet) in SHUTDOWN_NAMES or applet in archive.entries:
            continue
        if applet in ("bin/busybox", "linuxrc"):
            continue
        archive.symlink(applet, "/bin/busybox")
    for name in SHUTDOWN_NAMES:
        archive.symlink("sbin/" + name, "/lib/viv/shutdown")


def make_initrd(fetcher, kernel_root, test, extra_files, say):
    busybox_root, busybox_deb = fetcher.unpack("busybox-static")
    debs = [busybox_deb]
    say("putting the initramfs together")
    archive = Archive()
    for name in recipe.DIRECTORIES:
        archive.directory(name)
    archive.directory("tmp", 0o1777)
    archive.symlink("var/run", "/run")
    archive.symlink("lib64", "/lib")
    archive.char_device("dev/console", 5, 1)
    archive.char_device("dev/null", 1, 3, 0o666)
    archive.file("sbin/outb", outb.CODE, 0o755)
    add_rootfs(archive)
    add_busybox(archive, find_busybox(busybox_root))
    missing = ModuleTree(kernel_root).add_to(archive, recipe.MODULES)
    for name in sorted(set(missing) - recipe.OPTIONAL):
        say(f"remark: this kernel has no module {name}")
    if test:
        for package, source, target in recipe.TEST_TOOLS:
            root, deb = fetcher.unpack(package)
            debs.append(deb)
            with open(os.path.join(root, source), "rb") as f:
                archive.file(target, f.read(), 0o755)
    for guest_path, host_path in extra_files:
        with open(host_path, "rb") as f:
            archive.file(guest_path, f.read(), 0o755 if os.access(host_path, os.X_OK) else 0o644)
    return archive.to_bytes(), debs


def write_file(path, data):
    """Whole or not at all: whoever boots the guest meanwhile sees the old file."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(fd, "wb") as f:
        f.write(data)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def build(out, test, extra_files, say):
    work = os.path.join(out, ".work")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    try:
        fetcher = Fetcher(work, say)
        if not fetcher.lists_known(recipe.KERNEL_META):
            fetcher.own_lists()
        kernels = [d for d in fetcher.depends(recipe.KERNEL_META) if d.startswith("linux-image-")]
        if not kernels:
            raise PackageError(f"package {recipe.KERNEL_META} is not in this host's package "
                               "sources; they should name Debian's main archive for amd64")
        kernel_root, kernel_deb = fetcher.unpack(kernels[0])
        with open(find_kernel(kernel_root), "rb") as f:
            kernel = f.read()
        initrd, debs = make_initrd(fetcher, kernel_root, test, extra_files, say)
        stamp = {
            "recipe": recipe_hash(test, extra_files),
            "packages": sorted([kernel_deb, *debs]),
            "sizes": {"vmlinuz": len(kernel), "initrd.img": len(initrd)},
            "sha256": {"vmlinuz": hashlib.sha256(kernel).hexdigest(),
                       "initrd.img": hashlib.sha256(initrd).hexdigest()},
        }
        write_file(os.path.join(out, "vmlinuz"), kernel)
        write_file(os.path.join(out, "initrd.img"), initrd)
        write_file(os.path.join(out, "guest.json"),
                   (json.dumps(stamp, indent=1, sort_keys=True) + "\n").encode())
    finally:
        shutil.rmtree(work, ignore_errors=True)
