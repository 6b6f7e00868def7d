#!/usr/bin/python3
"""Real work in the guest: Debian's gcc, make, python3 and perl, on a disk. The guest compiles some of
Vivarium's own sources and runs their unit tests; every object must have the bytes that the same
compiler makes on the host in a chroot. WORK=all takes all sources (an hour on a slow engine).

The disk is made once by mmdebstrap and kept in the cache. Needs root, for the chroot.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile

import vm

HERE = os.path.dirname(os.path.abspath(__file__))
SRC = os.path.join(vm.TOP, "src")
PACKAGES = "gcc,libc6-dev,make,perl,python3-minimal,libpython3-stdlib,libcmocka-dev"
EXCLUDE = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/var/cache/apt/*"]
FOLDERS = ("base", "state")

# The disk stays as it is: the guest writes into memory above it.
GUEST = """
set -e
modprobe overlay
mkdir -p /r /t /n
mount -t ext4 -o ro /dev/vda /r
mount -t tmpfs -o size=80% t /t
mkdir -p /t/u /t/w
mount -t overlay -o lowerdir=/r,upperdir=/t/u,workdir=/t/w o /n
mkdir -p /n/work
tar -xf /dev/vdb -C /n/work
mount -t proc proc /n/proc
mount --bind /dev /n/dev
echo work: start
chroot /n /bin/sh /work/run.sh
echo work: end
"""


def sources():
    found = []
    for folder, dirs, names in os.walk(SRC):
        dirs.sort()
        top = os.path.relpath(folder, SRC).split(os.sep)[0]
        for name in sorted(names):
            if name.endswith(".c") and (os.environ.get("WORK") == "all" or top in FOLDERS):
                if not name.endswith("_fuzz.c"):
                    found.append(os.path.relpath(os.path.join(folder, name), SRC))
    return found


def make_root(cache):
    """A Debian in cache/root and cache/root.ext4; made again when what it is made of changes."""
    stamp = hashlib.sha256(repr((PACKAGES, EXCLUDE, 2)).encode()).hexdigest()
    mark = os.path.join(cache, "stamp")
    if os.path.exists(mark):
        with open(mark, encoding="ascii") as f:
            if f.read() == stamp:
                return
    root, disk = os.path.join(cache, "root"), os.path.join(cache, "root.ext4")
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.NamedTemporaryFile(dir=cache, suffix=".tar") as tar:
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        argv += [f"--dpkgopt=path-exclude={e}" for e in EXCLUDE]
        if subprocess.run([*argv, "bookworm", tar.name], check=False).returncode != 0:
            vm.skip("mmdebstrap cannot make a Debian (is this host online?)")
        os.mkdir(root)
        subprocess.run(["tar", "-C", root, "--exclude=./var/cache/apt/*",
                        "--exclude=./var/lib/apt/lists/*", "-xf", tar.name], check=True)
    mib = int(subprocess.run(["du", "-sm", root], check=True, capture_output=True,
                             text=True).stdout.split()[0])
    with open(disk, "wb") as f:
        f.truncate((mib + mib // 4 + 64) << 20)
    subprocess.run([shutil.which("mkfs.ext4", path=os.environ["PATH"] + ":/sbin:/usr/sbin"), "-q",
                    "-F", "-O", "^has_journal", "-d", root, disk], check=True)
    with open(mark, "w", encoding="ascii") as f:
        f.write(stamp)


def make_tar(path):
    """Headers, the chosen sources, and what drives it; a disk is whole sectors."""
    files = sources()
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as listing, \
            tarfile.open(path, "w") as tar:
        listing.write(" ".join(files))
        listing.flush()
        tar.add(listing.name, "files")
        for name in ("Makefile", "run.sh"):
            tar.add(os.path.join(HERE, "work", name), name)
        for folder, dirs, names in os.walk(SRC):
            dirs.sort()
            for name in sorted(names):
                rel = os.path.relpath(os.path.join(folder, name), SRC)
                if name.endswith((".h", ".inc")) or rel in files:
                    tar.add(os.path.join(folder, name), os.path.join("src", rel))
        if os.environ.get("WORK") == "all":
            tar.add(os.devnull, "partial")
    return len(files)


def on_host(cache, tar):
    work = os.path.join(cache, "root", "work")
    shutil.rmtree(work, ignore_errors=True)
    os.mkdir(work)
    subprocess.run(["tar", "-C", work, "-xf", tar], check=True)
    done = subprocess.run(["chroot", os.path.join(cache, "root"), "/bin/sh", "/work/run.sh"],
                          check=False, capture_output=True, text=True)
    shutil.rmtree(work)
    vm.check(done.returncode == 0, f"on the host: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout.split("\n")


def objects_are_the_same():
    if os.geteuid() != 0:
        vm.skip("a chroot needs root")
    for tool in ("mmdebstrap", "mkfs.ext4", "chroot", "tar"):
        if shutil.which(tool, path=os.environ["PATH"] + ":/sbin:/usr/sbin") is None:
            vm.skip(f"{tool} is not installed")
    cache = os.path.join(vm.CACHE, "vivarium", "work-root")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, ".lock"), "w", encoding="ascii") as lock, \
            tempfile.TemporaryDirectory() as tmp:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_root(cache)
        tar = os.path.join(tmp, "work.tar")
        n = make_tar(tar)
        want = [line for line in on_host(cache, tar) if line]
        fcntl.flock(lock, fcntl.LOCK_UN)
        vm.check(len(want) > 10, f"the host made little: {want}")
        with open(os.path.join(tmp, "script"), "w", encoding="ascii") as f:
            f.write(GUEST)
        kernel, _ = vm.guest_files()
        with vm.VM("--disk", f"{os.path.join(cache, 'root.ext4')},readonly=on", "--disk", tar,
                   run="sh /script", cpus=2, memory="1G", kernel=kernel,
                   initrd=vm.initrd_with(["script"], tmp), cmdline="quiet") as g:
            g.expect("work: start", deadline_s=300)
            g.wait(deadline_s=7200 if os.environ.get("WORK") == "all" else 900)
            vm.no_kernel_trouble(g)
            lines = [line.strip() for line in g.console.splitlines()]
            got = lines[lines.index("work: start") + 1:lines.index("work: end")]
    for line in want:
        if line not in got:
            print(f"missing in the guest: {line}")
    vm.check(got == want, "the guest's results differ from the host's:\n" + "\n".join(got[-40:]))
    print(f"{n} sources, {len(want)} equal lines:\n" + "\n".join(want[-5:]))


vm.run_cases([objects_are_the_same])
