"""Answers of a host as FreeBSD 13.2 gave them, and what must be refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import FactsMismatch, HostUnready, UnexpectedAnswer
from harness.hosts import (
    Boot,
    CpuIdentity,
    Facts,
    complaints,
    hardware_trouble,
    require_declared,
    require_known_release,
    require_ready,
)
from harness.hosts.host import FileProof, parse_boot
from harness.hosts.messages import mark_command, since
from harness.hosts.modules import hash_command, identity_command, parse_kldstat
from harness.hosts.witness import parse_state

KLDSTAT = """Id Refs Address                Size Name
 1    9 0xffffffff80200000  213e2d0 kernel (/boot/kernel/kernel)
\tContains modules:
\t\t Id Name
\t\t384 if_lo
 2    1 0xffffffff82600000   53c438 vmm.ko (/root/candidate/vmm.ko)
\tContains modules:
\t\t Id Name
\t\t517 acpi/ivhd
\t\t514 vmm
"""
ORIGIN = '  Origin="AuthenticAMD"  Id=0x800f11  Family=0x17  Model=0x1  Stepping=1'
SKYLAKE = '  Origin="GenuineIntel"  Id=0x50654  Family=0x6  Model=0x55  Stepping=12'
SPACE = "Filesystem 1024-blocks Used Avail Capacity Mounted on\n/dev/gpt/rootfs 1126400 131000 {free} 12% /"


def facts(**changes: str) -> Facts:
    answers = {
        "userland": "1302001", "release": "13.2-RELEASE", "ncpu": "2", "origin": ORIGIN, "modules": "",
        "space": SPACE.format(free=937000),
        "vmm": "hw.vmm.svm.num_asids: 32768\nhw.vmm.svm.features: 5199\nhw.vmm.halt_detection: 1",
    }  # fmt: skip
    return Facts({**answers, **changes})


def test_loaded_files_with_their_paths_and_modules() -> None:
    files = {file.name: file for file in parse_kldstat(KLDSTAT)}
    assert files["vmm.ko"].path == "/root/candidate/vmm.ko"
    assert files["vmm.ko"].modules == ("acpi/ivhd", "vmm")
    assert files["kernel"].modules == ("if_lo",)
    # Without -v there is no path, which is no proof of anything.
    assert parse_kldstat(" 2    1 0xffffffff82600000   53c438 vmm.ko\n")[0].path == ""


def test_a_boot_has_an_identifier_or_a_time() -> None:
    boot = parse_boot("Format: Length:16 Dump:0x89ee29d5f3ce4e7e9c2c5c14e6480378")
    assert boot.id == "89ee29d5f3ce4e7e9c2c5c14e6480378"
    assert boot.same_as(Boot(id=boot.id))
    assert not boot.same_as(Boot(id="0" * 32))
    old = parse_boot("{ sec = 1700000000, usec = 123 } Tue Nov 14 22:13:20 2023")
    assert old.same_as(Boot(seconds=1700000003))  # the clock was set
    assert not old.same_as(Boot(seconds=1700000030))
    assert not old.same_as(boot)
    with pytest.raises(UnexpectedAnswer):
        parse_boot("")  # what 'sysctl -n kern.boot_id' prints: the value is opaque


def test_the_processor_comes_from_the_boot_messages() -> None:
    assert facts().cpu == CpuIdentity("AuthenticAMD", 0x17, 1, 1)
    assert facts(origin=SKYLAKE).cpu == CpuIdentity("GenuineIntel", 6, 0x55, 12)
    with pytest.raises(UnexpectedAnswer):
        _ = facts(origin="").cpu


def test_another_machine_than_declared_is_refused() -> None:
    declared = CpuIdentity("AuthenticAMD", 0x17, 1, 1)
    require_declared(facts(), declared, 2)
    with pytest.raises(FactsMismatch, match="declares AuthenticAMD family 23 model 1 stepping 1, the machine says G"):
        require_declared(facts(origin=SKYLAKE), declared, 2)
    with pytest.raises(FactsMismatch, match="declares 4 processors, the machine has 2"):
        require_declared(facts(), declared, 4)


def test_releases_and_what_they_have() -> None:
    require_known_release(facts())
    for unknown in ("1100122", "1600001"):
        with pytest.raises(HostUnready, match="is not known here"):
            require_known_release(facts(userland=unknown))
    assert facts().has_testdev
    assert not facts(userland="1201000").has_testdev
    with pytest.raises(UnexpectedAnswer):
        require_known_release(facts(userland=""))


@pytest.mark.parametrize(
    ("vendor", "changes", "said"),
    [
        ("amd", {"vmm": "hw.vmm.svm.num_asids: 0\nhw.vmm.svm.features: 4294967295"}, "SVM is not usable"),
        ("intel", {"vmm": "hw.vmm.vmx.initialized: 0"}, "VT-x is not usable"),
        ("intel", {"vmm": "hw.vmm.vmx.initialized: 1\nhw.vmm.vmx.cap.unrestricted_guest: 0"}, "unrestricted guest"),
        ("amd", {"vmm": "hw.vmm.halt_detection: 0"}, "halted guest would never end"),
        ("amd", {"space": SPACE.format(free=100)}, "only 100 KiB are free"),
    ],
)
def test_hosts_that_cannot_run_guests(vendor: str, changes: dict[str, str], said: str) -> None:
    with pytest.raises(HostUnready, match=said):
        require_ready(facts(**changes), vendor)


def test_a_host_that_can() -> None:
    require_ready(facts(), "amd")
    require_ready(facts(vmm="hw.vmm.vmx.initialized: 1\nhw.vmm.vmx.cap.unrestricted_guest: 1"), "intel")


def test_messages_of_one_run_only() -> None:
    text = "old\nvmmcheck[12]: BEGIN aa first\nmine\nvmmcheck[13]: BEGIN bb second\nlock order reversal:\n 1st 0x..\n"
    assert since(text, "bb second") == ["lock order reversal:", " 1st 0x.."]
    assert complaints(since(text, "bb second")) == ["lock order reversal:"]
    assert complaints(since(text, "aa first")) == ["lock order reversal:"]
    assert complaints(["pid 1257 (bhyve), jid 0, uid 0: exited on signal 6", "lo0: link state changed to UP"]) == []
    assert hardware_trouble(["MCA: Bank 0, Status 0xb200000000030005"])
    assert mark_command("00c0ffee it's") == "logger -p user.err -t vmmcheck 'BEGIN 00c0ffee it'\"'\"'s'"


def test_a_sysctl_that_was_set_shows_old_and_new() -> None:
    line = "dr0={0} dr1=0x2 dr2=0x3 dr3=0x4 dr6=0xffff0ff0 dr7=0x400 debugctl=0x0"
    assert parse_state(f"{line.format('0x1')} -> {line.format('0x9')}").dr0 == 9
    with pytest.raises(UnexpectedAnswer):
        parse_state("dr0=0x1")


def test_a_proven_file_is_read_again_only_when_it_is_another_one(tmp_path: Path) -> None:
    file, tools = tmp_path / "vmm.ko", tmp_path / "bin"
    tools.mkdir()
    file.write_bytes(b"one")
    reads = tmp_path / "reads"
    for name, text in (
        ("stat", 'exec /usr/bin/stat -c "%d %i %s %.Y %.Z" "$3"'),
        ("sha256", f'echo read >>{reads}; sha256sum "$2" | cut -d" " -f1'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)

    def answer(command: str) -> str:
        path = f"{tools}:{os.environ['PATH']}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env={"PATH": path}, check=True)
        return done.stdout.strip()

    proof = FileProof(answer(identity_command(str(file))), "as it was proven")
    assert answer(hash_command(str(file), proof)) == "as it was proven"
    assert not reads.exists()
    file.write_bytes(b"two")
    assert answer(hash_command(str(file), proof)) == hashlib.sha256(b"two").hexdigest()
    assert answer(hash_command(str(file))) == hashlib.sha256(b"two").hexdigest()
