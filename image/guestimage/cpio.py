"""A writer of "newc" cpio archives, the format of the kernel's initramfs.

Kernel documentation, driver-api/early-userspace/buffer-format. Every entry has owner 0:0 and the
same time stamp, and names are written sorted, so equal contents give equal bytes. Device nodes
can be written without being root.
"""

import stat


class Archive:
    def __init__(self, mtime=1):
        self.mtime = mtime
        self.entries = {}  # name -> (mode, data, rdev)

    def _put(self, name, mode, data=b"", rdev=(0, 0)):
        name = name.strip("/")
        if not name:
            return
        parent = name.rpartition("/")[0]
        if parent and parent not in self.entries:
            self.directory(parent)
        self.entries[name] = (mode, data, rdev)

    def directory(self, name, mode=0o755):
        self._put(name, stat.S_IFDIR | mode)

    def file(self, name, data, mode=0o644):
        self._put(name, stat.S_IFREG | mode, data)

    def symlink(self, name, target):
        self._put(name, stat.S_IFLNK | 0o777, target.encode())

    def char_device(self, name, major, minor, mode=0o600):
        self._put(name, stat.S_IFCHR | mode, rdev=(major, minor))

    def to_bytes(self):
        out = []
        offset = 0

        def emit(chunk):
            nonlocal offset
            pad = -len(chunk) % 4
            out.append(chunk + bytes(pad))
            offset += len(chunk) + pad

        def header(name, ino, mode, nlink, mtime, size, rdev):
            fields = (ino, mode, 0, 0, nlink, mtime, size, 0, 0, rdev[0], rdev[1],
                      len(name.encode()) + 1, 0)
            emit(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")

        # A parent sorts before what is in it: "a" < "a/b".
        for ino, name in enumerate(sorted(self.entries), start=1):
            mode, data, rdev = self.entries[name]
            nlink = 2 if stat.S_ISDIR(mode) else 1
            header(name, ino, mode, nlink, self.mtime, len(data), rdev)
            emit(data)
        header("TRAILER!!!", 0, 0, 1, 0, 0, (0, 0))
        return b"".join(out) + bytes(-offset % 512)
