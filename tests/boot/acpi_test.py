#!/usr/bin/python3
"""ACPICA's compiler and dmidecode read our tables: acpi_test.py ACPI_DUMP

Every table is disassembled; the DSDT is compiled again, without an error, to the same bytes of code.
Skipped (77) without iasl.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

DEVICES = ["PCI0", "MBRD", "COM1", "COM2", "RTC_", "KBD_", "MOU_", "HPET", "C000", "C003", "PEVT",
           "FWCF", "VGEN"]


def run(argv, cwd):
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          check=False)


def expect(condition, text):
    if not condition:
        print(f"acpi_test: {text}")
        sys.exit(1)


def check_table(folder, name):
    result = run(["iasl", "-d", name], folder)
    expect(result.returncode == 0, f"iasl -d {name}: {result.stdout}{result.stderr}")
    with open(os.path.join(folder, name.replace(".aml", ".dsl")), encoding="utf-8") as f:
        text = f.read()
    expect("Incorrect checksum" not in text and "Error" not in text and "Invalid" not in text,
           f"{name}: iasl found a fault:\n{text}")
    return text


def check_dsdt(folder):
    text = check_table(folder, "DSDT.aml")
    for device in DEVICES:
        expect(re.search(rf"Device \({device.rstrip('_')}\)", text), f"no device {device}:\n{text}")
    expect(text.count("Package (0x04)") == 129, "_PRT should have 128 entries, \\_S5 one package")
    os.rename(os.path.join(folder, "DSDT.aml"), os.path.join(folder, "ours"))
    result = run(["iasl", "-oa", "-p", "again", "DSDT.dsl"], folder)
    expect(result.returncode == 0 and " 0 Errors" in result.stdout,
           f"compiled again: {result.stdout}{result.stderr}")
    with open(os.path.join(folder, "ours"), "rb") as f:
        ours = f.read()[36:]
    with open(os.path.join(folder, "again.aml"), "rb") as f:
        again = f.read()[36:]
    expect(ours == again, "the compiler makes other bytes of the same definitions")


def check_smbios(folder):
    """dmidecode reads a dump of the first MiB's last 64 KiB by our own entry point."""
    if shutil.which("dmidecode") is None:
        print("acpi_test: no dmidecode, SMBIOS left out")
        return
    with open(os.path.join(folder, "bios-area"), "rb") as f:
        area = f.read()
    entry = bytearray(area[0x1000:0x1018])
    length = int.from_bytes(entry[12:16], "little")
    # The dump format: entry point at 0, its address field pointing to the table behind it.
    entry[16:24] = (32).to_bytes(8, "little")
    entry[5] = 0
    entry[5] = -sum(entry) & 0xff
    with open(os.path.join(folder, "dmi"), "wb") as f:
        f.write(bytes(entry).ljust(32, b"\0") + area[0x1020:0x1020 + length])
    result = run(["dmidecode", "--from-dump", "dmi"], folder)
    expect(result.returncode == 0, f"dmidecode: {result.stdout}{result.stderr}")
    for word in ("Manufacturer: Vivarium", "Size: 64 MB", "Core Count: 4", "End Of Table"):
        expect(word in result.stdout, f"dmidecode shows no {word!r}:\n{result.stdout}")
    expect("truncated" not in result.stdout + result.stderr and "BROKEN" not in result.stdout,
           f"dmidecode: {result.stdout}{result.stderr}")


def main():
    if shutil.which("iasl") is None:
        print("acpi_test: skipped, iasl (acpica-tools) is not installed")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.argv[1], folder, "4"], check=True)
        names = sorted(n for n in os.listdir(folder) if n.endswith(".aml"))
        expect(set(names) == {"APIC.aml", "DSDT.aml", "FACP.aml", "HPET.aml", "MCFG.aml",
                              "WAET.aml", "XSDT.aml"}, f"tables: {names}")
        for name in names:
            if name != "DSDT.aml":
                check_table(folder, name)
        check_dsdt(folder)
        check_smbios(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
