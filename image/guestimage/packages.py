"""Fetches Debian packages as the user's own apt would, without installing anything.

Uses the system's sources, keys and proxy settings, so that whatever makes `apt-get` work on this
host makes this work. When the system has no package lists yet, they are fetched into a folder of
ours, which needs no root.
"""

import os
import re
import shutil
import subprocess


class PackageError(Exception):
    pass


class Fetcher:
    def __init__(self, work_dir, say):
        self.work = work_dir
        self.say = say
        self.options = []
        if os.geteuid() == 0:
            # The download user of apt cannot write into a private folder; root can.
            self.options += ["-o", "APT::Sandbox::User=root"]
        os.makedirs(self.work, exist_ok=True)

    def _run(self, argv, **kwargs):
        if shutil.which(argv[0]) is None:
            raise PackageError(f"{argv[0]} is not on this host; the guest image is made from "
                               "Debian packages and needs apt and dpkg")
        env = dict(os.environ, LC_ALL="C.UTF-8")
        return subprocess.run(argv, capture_output=True, text=True, env=env,
                              stdin=subprocess.DEVNULL, **kwargs)

    def _apt(self, tool, *args, cwd=None):
        return self._run([tool, *self.options, *args], cwd=cwd)

    def own_lists(self):
        """Package lists in a folder of ours, from the system's sources."""
        self.say("fetching the package lists")
        state = os.path.join(self.work, "apt")
        for sub in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(state, sub), exist_ok=True)
        self.options += ["-o", f"Dir::State::Lists={state}/lists",
                         "-o", f"Dir::Cache={state}/cache",
                         "-o", "APT::Update::Post-Invoke-Success::=",
                         "-o", "Debug::NoLocking=1"]
        run = self._apt("apt-get", "update", "-q")
        if run.returncode != 0:
            raise PackageError("cannot fetch the package lists (is this host online?): "
                               + last_line(run.stderr))

    def lists_known(self, package):
        run = self._apt("apt-cache", "show", "--no-all-versions", package)
        return run.returncode == 0 and run.stdout.strip() != ""

    def depends(self, package):
        run = self._apt("apt-cache", "depends", "--no-recommends", "--no-suggests", package)
        return re.findall(r"^\s*\|?Depends: (\S+)", run.stdout, re.M)

    def download(self, package):
        """Path of the package's .deb."""
        target = os.path.join(self.work, "download")
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
        self.say(f"fetching {package}")
        run = self._apt("apt-get", "download", "-q", package, cwd=target)
        if run.returncode != 0 and not getattr(self, "retried", False):
            # Stale lists name files that the mirror no longer has.
            self.retried = True
            self.own_lists()
            run = self._apt("apt-get", "download", "-q", package, cwd=target)
        found = [f for f in os.listdir(target) if f.endswith(".deb")]
        if run.returncode != 0 or len(found) != 1:
            raise PackageError(f"cannot fetch package {package} (is this host online?): "
                               + last_line(run.stderr))
        return os.path.join(target, found[0])

    def unpack(self, package):
        """Fetches and unpacks; returns the folder and the file name (package_version_arch)."""
        deb = self.download(package)
        root = os.path.join(self.work, "unpacked", package)
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)
        run = self._run(["dpkg-deb", "-x", deb, root])
        if run.returncode != 0:
            raise PackageError(f"cannot unpack {deb}: " + last_line(run.stderr))
        name = os.path.basename(deb)
        os.unlink(deb)
        return root, name


def last_line(text):
    lines = [l for l in text.strip().splitlines() if not l.startswith("W:")]
    return lines[-1].strip() if lines else "no reason given"
