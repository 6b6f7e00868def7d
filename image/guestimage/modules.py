"""Picks kernel modules with what they depend on, and writes what modprobe reads about them.

depmod's job for a handful of modules, so that making an image needs no kmod and no root. The facts
come from each module's .modinfo strings: depends=, alias=, softdep=.
"""

import lzma
import os
import re


def plain_name(name):
    """virtio-rng.ko and virtio_rng name the same module."""
    return re.sub(r"\.ko(\.(xz|gz|zst))?$", "", os.path.basename(name)).replace("-", "_")


def read_module(path):
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        import gzip
        return gzip.decompress(data)
    if path.endswith(".zst"):
        import subprocess
        return subprocess.run(["zstd", "-dcq"], input=data, check=True, capture_output=True).stdout
    return data


def modinfo(data, key):
    pattern = rb"(?<=\0)" + key.encode() + rb"=([\x20-\x7e]*)\0"
    return [m.decode() for m in re.findall(pattern, data)]


class ModuleTree:
    """The modules below root/lib/modules/VERSION of an unpacked kernel package."""

    def __init__(self, root):
        base = os.path.join(root, "lib/modules")
        if not os.path.isdir(base):
            base = os.path.join(root, "usr/lib/modules")
        versions = sorted(os.listdir(base))
        if len(versions) != 1:
            raise ValueError(f"{base} should hold one kernel version, found {versions}")
        self.version = versions[0]
        self.dir = os.path.join(base, self.version)
        self.paths = {}
        for folder, _, files in os.walk(self.dir):
            for name in files:
                if re.search(r"\.ko(\.(xz|gz|zst))?$", name):
                    self.paths[plain_name(name)] = os.path.join(folder, name)
        self.builtin = set()
        with open(os.path.join(self.dir, "modules.builtin"), encoding="ascii") as f:
            self.builtin = {plain_name(line.strip()) for line in f}
        self.data = {}

    def load(self, name):
        if name not in self.data:
            self.data[name] = read_module(self.paths[name])
        return self.data[name]

    def depends(self, name):
        found = []
        for line in modinfo(self.load(name), "depends"):
            found += [plain_name(d) for d in line.split(",") if d]
        return found

    def closure(self, wanted):
        """wanted and all they depend on; names that the kernel lacks are returned apart."""
        chosen, missing, queue = {}, [], list(wanted)
        while queue:
            name = plain_name(queue.pop(0))
            if name in chosen or name in self.builtin:
                continue
            if name not in self.paths:
                missing.append(name)
                continue
            chosen[name] = self.depends(name)
            queue += chosen[name]
        return chosen, missing

    def add_to(self, archive, wanted):
        chosen, missing = self.closure(wanted)
        where = {}
        for name in chosen:
            rel = os.path.relpath(self.paths[name], self.dir)
            where[name] = re.sub(r"\.ko\.(xz|gz|zst)$", ".ko", rel)
            archive.file(f"lib/modules/{self.version}/{where[name]}", self.load(name))

        def all_deps(name, seen):
            for dep in chosen[name]:
                if dep in chosen and dep not in seen:
                    all_deps(dep, seen)
                    seen.append(dep)
            return seen

        dep_lines, alias_lines = [], []
        for name in sorted(chosen):
            # modprobe loads this list from its end: what others need comes last.
            deps = [where[d] for d in reversed(all_deps(name, []))]
            dep_lines.append(f"{where[name]}: {' '.join(deps)}".rstrip() + "\n")
            for alias in modinfo(self.load(name), "alias"):
                alias_lines.append(f"alias {alias} {name}\n")
        top = f"lib/modules/{self.version}"
        archive.file(f"{top}/modules.dep", "".join(dep_lines).encode())
        archive.file(f"{top}/modules.alias", "".join(sorted(set(alias_lines))).encode())
        archive.file(f"{top}/modules.symbols", b"")
        archive.file(f"{top}/modules.builtin", b"")
        return missing
