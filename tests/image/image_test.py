#!/usr/bin/python3
"""The guest image builder's parts: the tiny program, the archive, module dependencies, errors."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGE = os.path.join(TOP, "image")
sys.dont_write_bytecode = True
sys.path.insert(0, IMAGE)
# pylint: disable=wrong-import-position
from guestimage import outb
from guestimage.cpio import Archive
from guestimage.modules import ModuleTree


class ImageTest(unittest.TestCase):
    @unittest.skipIf(shutil.which("nasm") is None, "nasm is not installed")
    def test_outb_is_what_its_source_says(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "outb")
            subprocess.run(["nasm", "-f", "bin", "-o", path, os.path.join(IMAGE, "outb.asm")],
                           check=True)
            with open(path, "rb") as f:
                self.assertEqual(f.read(), outb.CODE)

    def test_outb_refuses_wrong_arguments(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "outb")
            with open(path, "wb") as f:
                f.write(outb.CODE)
            os.chmod(path, 0o755)
            self.assertEqual(subprocess.run([path, "128"], check=False).returncode, 1)

    def test_archive(self):
        archive = Archive()
        archive.file("b/c/file", b"text", 0o755)
        archive.symlink("a", "b/c/file")
        archive.char_device("dev/null", 1, 3)
        data = archive.to_bytes()
        self.assertEqual(len(data) % 512, 0)
        self.assertEqual(data, archive.to_bytes())
        tool = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
        if shutil.which(tool[0]) is None:
            self.skipTest("neither cpio nor busybox is installed")
        run = subprocess.run([*tool, "-t"], input=data, capture_output=True, check=True)
        self.assertEqual(run.stdout.decode().split(),
                         ["a", "b", "b/c", "b/c/file", "dev", "dev/null"])

    def test_modules(self):
        with tempfile.TemporaryDirectory() as root:
            base = os.path.join(root, "lib/modules/1.0")
            os.makedirs(os.path.join(base, "kernel"))
            for name, info in (("top", b"\0depends=mid-dle,built\0alias=pci:v1*\0"),
                               ("mid-dle", b"\0depends=low\0"), ("low", b"\0depends=\0")):
                with open(os.path.join(base, f"kernel/{name}.ko"), "wb") as f:
                    f.write(b"\x7fELF" + info)
            with open(os.path.join(base, "modules.builtin"), "w", encoding="ascii") as f:
                f.write("kernel/built.ko\n")
            archive = Archive()
            missing = ModuleTree(root).add_to(archive, ["top", "absent"])
            self.assertEqual(missing, ["absent"])
            dep = archive.entries["lib/modules/1.0/modules.dep"][1].decode()
            self.assertIn("kernel/top.ko: kernel/mid-dle.ko kernel/low.ko\n", dep)
            self.assertIn("kernel/low.ko:\n", dep)
            alias = archive.entries["lib/modules/1.0/modules.alias"][1].decode()
            self.assertEqual(alias, "alias pci:v1* top\n")

    def test_offline_is_one_clear_line(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = os.path.join(folder, "bin")
            os.makedirs(fake)
            for tool in ("apt-get", "apt-cache"):
                path = os.path.join(fake, tool)
                with open(path, "w", encoding="ascii") as f:
                    f.write("#!/bin/sh\necho 'E: Could not resolve host' >&2\nexit 100\n")
                os.chmod(path, 0o755)
            run = subprocess.run(
                [os.path.join(IMAGE, "make-guest"), "--out", os.path.join(folder, "guest")],
                env={"PATH": fake + ":/usr/bin:/bin", "HOME": folder}, capture_output=True,
                text=True, check=False)
            self.assertEqual(run.returncode, 1)
            self.assertIn("online?", run.stderr)
            self.assertNotIn("Traceback", run.stderr)
            self.assertEqual(os.listdir(os.path.join(folder, "guest")), [".lock"])


if __name__ == "__main__":
    unittest.main()
