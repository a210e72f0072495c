"""Virtual hosts: a disk image of ours in a real Bochs, behind its power switch, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from harness.bochs.disk import firmware
from harness.errors import EmulatorFailed, ToolMissing
from harness.inventory import BochsHost, QemuHost
from harness.lab import Launcher, platform_of
from harness.lab.power import PowerFailed, SimulatedPower
from harness.lab.reach import reach_of
from harness.timing import Deadline, wait_until
from harness.virtual.machines import nested_problem, qemu_command

KEY = "SHA256:" + "A" * 43
#: Sets COM1's divisor and sends "UP" and a newline, then halts for good.
BOOT_SECTOR = bytes.fromhex(
    "bafb03b080ee" "baf803b001ee" "baf903b000ee" "bafb03b003ee" "baf803b055eeb050eeb00aee" "f4ebfd"
)  # fmt: skip


def entry(image: Path, **more: object) -> BochsHost:
    data = {"kind": "bochs", "vendor": "amd", "image": str(image), "identity": {"agent": True}, "host_keys": (KEY,)}
    return BochsHost.model_validate({**data, "memory": 256, **more})


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "disk.img"
    path.write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(10 * 16 * 63 * 512 - 512))
    return path


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    made.stop()


def test_an_image_boots_can_be_switched_and_is_never_written(
    image: Path, launcher: Launcher, tmp_path: Path
) -> None:
    before = image.read_bytes()
    host = entry(image)
    told = launcher.start({"vm": host}, tmp_path)["vm"]
    assert told["address"] == "127.0.0.1"
    board = SimulatedPower(Path(told["control"]))
    wait_until(lambda: board.console().count("UP") == 1, Deadline.after(30), "the first boot", interval=0.2)
    assert board.is_on()
    board.off()
    assert not board.is_on()
    board.on()
    wait_until(lambda: board.console().count("UP") == 2, Deadline.after(30), "the second boot", interval=0.2)
    board.cycle()
    wait_until(lambda: board.console().count("UP") == 3, Deadline.after(30), "the third boot", interval=0.2)
    with pytest.raises(PowerFailed, match="unknown power verb"):
        board.ask({"op": "power", "do": "sideways"})
    spent = launcher.stop()
    assert spent["vm"]["bochs_seconds"] > 0
    state = tmp_path / "hosts" / "vm" / "virtual"
    assert not (state / "disk.changes").exists()
    assert (state / "serial.1").read_text().strip() == "UP"
    assert image.read_bytes() == before


def test_a_host_that_dies_by_itself_says_why(image: Path, launcher: Launcher, tmp_path: Path) -> None:
    told = launcher.start({"vm": entry(image)}, tmp_path)["vm"]
    board = SimulatedPower(Path(told["control"]))
    assert board.ask({"op": "power", "do": "status"})["on"]
    board.off()
    answer = board.ask({"op": "power", "do": "status"})
    assert not answer["on"]
    assert isinstance(answer["why"], str)


def test_an_image_that_is_not_there_is_refused_at_once(launcher: Launcher, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(EmulatorFailed, match=r"The disk image '.*nosuch\.img' does not exist"):
        launcher.start({"vm": entry(tmp_path / "nosuch.img")}, tmp_path)
    assert time.monotonic() - started < 20


def test_the_way_to_it_is_the_launchers_port_with_the_inventorys_keys(tmp_path: Path) -> None:
    told = {"address": "127.0.0.1", "port": "40022", "control": str(tmp_path / "control")}
    key = tmp_path / "key"
    paramiko.RSAKey.generate(2048).write_private_key_file(str(key))
    host = entry(tmp_path / "x.img", identity={"file": str(key)}, user="lab", become="doas")
    reach = reach_of("vm", host, told)
    assert (reach.endpoint.port, reach.endpoint.user, list(reach.endpoint.host_keys)) == (40022, "lab", [KEY])
    assert reach.become == ("doas", "-n")
    assert reach.power is not None
    assert reach.timeouts.patience == 10


def test_a_virtual_host_has_no_column_in_common_with_hardware(tmp_path: Path) -> None:
    bochs = platform_of("vm", entry(tmp_path / "x.img"))
    assert bochs.emulated
    assert "EMULATED" in bochs.heading
    assert "debugctl" not in bochs.capabilities
    assert "witness" not in bochs.capabilities
    assert "witness" in platform_of("vm", entry(tmp_path / "x.img", witness_file="w.ko")).capabilities


def test_qemu_is_closed_to_the_world(tmp_path: Path) -> None:
    data = {"kind": "qemu", "vendor": "amd", "image": "x", "identity": {"agent": True}, "host_keys": (KEY,)}
    host = QemuHost.model_validate(data)
    words = qemu_command(host, tmp_path / "disk.qcow2", tmp_path, 40022, tmp_path / "serial.1")
    network = words[words.index("-netdev") + 1]
    assert "restrict=on" in network
    assert "hostfwd=tcp:127.0.0.1:40022-:22" in network
    assert words[words.index("-display") + 1] == "none"
    assert words[words.index("-cpu") + 1] == "host"


def test_missing_firmware_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="BIOS-bochs-latest"):
        firmware((tmp_path,))


def test_a_kvm_without_the_extension_inside_is_told_by_the_processors_flags() -> None:
    info = "processor\t: 0\nmodel name\t: some EPYC\nflags\t\t: fpu {} hypervisor\nbogomips\t: 1\n"
    assert nested_problem("amd", info.format("svm")) == ""
    assert nested_problem("intel", info.format("svm")) == "this processor shows no VMX here"
    assert nested_problem("amd", info.format("lahf_lm")) == "this processor shows no SVM here"
