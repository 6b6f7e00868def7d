"""What is in the default guest and in the test guest."""

# The first group brings up a VM's devices; the rest is there to be loaded on demand.
MODULES = [
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon",
    "virtio_mmio", "virtio_scsi", "sd_mod", "sr_mod", "vmw_vsock_virtio_transport", "virtio_fs",
    "virtiofs", "virtio_mem", "virtio_input", "button", "evdev", "pvpanic_mmio", "pvpanic_pci",
    "loop", "overlay", "squashfs", "isofs", "vfat", "nls_cp437", "nls_ascii", "nls_utf8",
    "crc32c_intel", "nvme", "ahci", "psmouse", "i6300esb",
]

# Names that some kernels build in, call otherwise or lack: no remark when they are missing.
OPTIONAL = {"virtio_fs", "ahci", "psmouse", "i6300esb", "virtio_mem", "virtio_input", "nvme",
            "virtio_mmio", "nls_utf8", "crc32c_intel", "pvpanic_mmio", "pvpanic_pci"}

DIRECTORIES = ["bin", "dev", "etc", "home", "lib", "mnt", "proc", "root", "run", "sbin", "sys",
               "usr/bin", "usr/sbin", "var", "viv.d"]

KERNEL_META = "linux-image-cloud-amd64"

# The test guest adds static tools from Debian packages: (package, path in it, path in the guest).
TEST_TOOLS = [
    ("e2fsck-static", "sbin/e2fsck.static", "sbin/e2fsck"),
]
