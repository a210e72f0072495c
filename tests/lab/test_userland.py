"""Tools that go along with the module under test: which ones a run uses, and which are refused before it begins."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ConfigError, ModuleRefused
from harness.guest import Program
from harness.hosts import Facts, Host
from harness.hosts.abi import Ioctl
from harness.inventory.load import check_inventory
from harness.inventory.model import STOCK_MODULE
from harness.lab.ssh_session import SshSession
from harness.lab.undertest import UnderTest
from harness.lab.userland import Userland, prelude, require_fit
from harness.recording import NullRecorder
from harness.timing import Deadline
from harness.transport import SshTransport
from harness.trouble.standing import StandingHost
from tests.hosts.freebsd_files import HEADER, RUN, library, module, program

#: What the emulated host says it is.
VERSION = 1302001


def installed(root: Path, version: int = VERSION, **other: int) -> Path:
    """A folder as 'make installworld DESTDIR=' leaves it, with our tools in it."""
    for name, place in (("bhyve", "usr/sbin"), ("bhyvectl", "usr/sbin"), ("libvmmapi.so.5", "usr/lib")):
        (root / place).mkdir(parents=True, exist_ok=True)
        make = library if name.startswith("lib") else program
        (root / place / name).write_bytes(make(root / "work", other.get(name.partition(".")[0], version)))
    return root


def facts(kernel: int = VERSION, userland: int = VERSION) -> Facts:
    return Facts({"kernel": str(kernel), "userland": str(userland), "hashes": ""})


def test_the_three_tools_are_found_below_a_root_and_in_one_folder(tmp_path: Path) -> None:
    root = installed(tmp_path / "root")
    found = Userland.read(root)
    assert (sorted(found.files), found.version) == (["bhyve", "bhyvectl", "libvmmapi.so.5"], VERSION)
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, data in found.files.items():
        (flat / name).write_bytes(data)
    assert Userland.read(flat).files == found.files
    (flat / "bhyvectl").unlink()
    with pytest.raises(ConfigError, match="has no bhyvectl"):
        Userland.read(flat)


def test_tools_of_different_releases_are_refused(tmp_path: Path) -> None:
    root = installed(tmp_path, libvmmapi=1201000)
    with pytest.raises(ConfigError, match=r"of different releases \(bhyve 1302001, bhyvectl 1302001, libvmm.* 1201000"):
        Userland.read(root)


def test_what_belongs_together_is_told(transport: SshTransport, tmp_path: Path) -> None:
    host, tools = Host(transport), Userland.read(installed(tmp_path / "root"))
    built = UnderTest("/root/.vmmcheck/vmm.ko", module(tmp_path, VERSION), "built from x", HEADER)
    told = require_fit(host, facts(), built, tools)
    assert told["module_version"] == told["userland_version"] == str(VERSION)
    assert told["ioctls"] == "2 of libvmmapi, all declared by the vmm_dev.h of the module's sources"
    assert require_fit(host, facts(), UnderTest(STOCK_MODULE), None)["userland_origin"] == "the host's own"


def test_what_does_not_belong_together_is_refused_in_one_sentence(transport: SshTransport, tmp_path: Path) -> None:
    host, tools = Host(transport), Userland.read(installed(tmp_path / "root"))
    older = UnderTest("/root/.vmmcheck/vmm.ko", module(tmp_path, 1301000), "built from x")
    with pytest.raises(ModuleRefused, match=r"was built from sources of 1301000, and kernel 1302001 runs there"):
        require_fit(host, facts(), older, None)
    on_host = tmp_path / "vmm.ko"
    on_host.write_bytes(module(tmp_path, 1301000))
    with pytest.raises(ModuleRefused, match="sources of 1301000"):
        require_fit(host, facts(), UnderTest(str(on_host)), None)
    with pytest.raises(ModuleRefused, match=r"The tools of 'userland' are of 1302001, kernel and module of 1302505"):
        require_fit(host, facts(kernel=1302505), UnderTest(STOCK_MODULE), tools)
    with pytest.raises(ModuleRefused, match=r"The host's bhyve, .* are of 1201000, the kernel of 1302001"):
        require_fit(host, facts(userland=1201000), UnderTest(STOCK_MODULE), None)
    changed = HEADER.replace("IOCNUM_RUN = 1,", "IOCNUM_RUN = 90,")
    built = UnderTest("/root/.vmmcheck/vmm.ko", module(tmp_path, VERSION), "built from x", changed)
    with pytest.raises(ModuleRefused, match=r"libvmmapi issues _IOWR\('v', 1, 144 bytes\), which the vmm_dev\.h"):
        require_fit(host, facts(), built, tools)


def test_the_hosts_own_library_is_compared_with_the_sources_and_with_the_tools(
    transport: SshTransport, tmp_path: Path
) -> None:
    host, tools = Host(transport), Userland.read(installed(tmp_path / "root"))
    own = tmp_path / "libvmmapi.so.5"
    own.write_bytes(library(tmp_path, VERSION, (RUN, Ioctl(113, "_IOWR", 72))))
    # The pattern of the path is FreeBSD's; the file is here.
    hashes = {"hashes": "SHA256 (/usr/lib/libvmmapi.so.5) = 0"}

    class Here(Host):
        def get(self, path: str) -> bytes:
            assert path == "/usr/lib/libvmmapi.so.5"
            return super().get(str(own))

    here = Here(host.transport)
    asked = Facts({**facts().answers, **hashes})
    built = UnderTest("/root/.vmmcheck/vmm.ko", module(tmp_path, VERSION), "built from x", HEADER)
    with pytest.raises(ModuleRefused, match=r"issues _IOWR\('v', 113, 72 bytes\), which"):
        require_fit(here, asked, built, None)
    told = require_fit(here, asked, built, tools)
    assert told["ioctls_of_hosts_tools"] == "others: _IOW('v', 20, 16 bytes), _IOWR('v', 113, 72 bytes)"


def test_the_staged_tools_are_what_a_command_finds_and_nobody_is_told_how(
    transport: SshTransport, tmp_path: Path
) -> None:
    folder = tmp_path / "user land"
    folder.mkdir()
    (folder / "bhyvectl").write_text('#!/bin/sh\necho "staged $LD_LIBRARY_PATH"\n')
    (folder / "bhyvectl").chmod(0o700)
    transport.prelude = prelude(str(folder))
    try:
        done = transport.run("bhyvectl --vm=x", deadline=Deadline.after(20))
        assert (done.text, done.command) == (f"staged {folder}", "bhyvectl --vm=x")
        assert transport.run("ls / >/dev/null && echo there", deadline=Deadline.after(20)).text == "there"
    finally:
        transport.prelude = ""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingHost]:
    host = StandingHost("fbamd", "amd", tmp_path_factory.mktemp("standing"))
    yield host
    host.stop()


def session(standing: StandingHost, folder: Path, userland: Path) -> SshSession:
    text = f'schema = 1\nlab = "x"\n{standing.entry()}userland = "{userland}"\n'
    entry = check_inventory(tomllib.loads(text), "lab.toml").host["fbamd"]
    return SshSession("fbamd", entry, {}, folder, ())  # type: ignore[arg-type]


def test_a_run_stages_them_and_takes_them_away_again(standing: StandingHost, tmp_path: Path) -> None:
    before = standing.state()
    opened = session(standing, tmp_path / "run", installed(tmp_path / "root"))
    told = opened.open()
    assert told["userland_origin"] == "staged for the run"
    assert told["userland_version"] == str(VERSION)
    assert len(told["userland_sha256"].splitlines()) == 3
    staged = standing.run("ls /root/.vmmcheck/userland; sha256 -q /root/.vmmcheck/userland/bhyve").split()
    assert staged[:3] == ["bhyve", "bhyvectl", "libvmmapi.so.5"]
    assert staged[3] in told["userland_sha256"]
    quiet = Program("quiet")
    quiet.exit("cpuid", 3)
    opened.begin(NullRecorder()).run(quiet)
    opened.end()
    assert "not_restored" not in opened.close()
    assert before.differences(standing.state()) == []


def test_a_mismatch_is_refused_before_anything_is_changed(standing: StandingHost, tmp_path: Path) -> None:
    before = standing.state()
    refused = session(standing, tmp_path / "run", installed(tmp_path / "root", 1201000))
    with pytest.raises(ModuleRefused, match="The tools of 'userland' are of 1201000, kernel and module of 1302001"):
        refused.open()
    assert "not_restored" not in refused.close()
    assert before.differences(standing.state()) == []
