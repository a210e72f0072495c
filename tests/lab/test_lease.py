"""The lease, over a real SSH server: atomic, expiring by the host's clock, fencing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.errors import HostUnready, LeaseLost
from harness.hosts import Boot, Host
from harness.lab.lease import LIFE, RENEW, Holder, Lease, is_gone, this_process
from harness.timing import Deadline
from harness.transport import SshTransport

BOOT = Boot(id="a" * 32)
OTHER_BOOT = Boot(id="b" * 32)


class FakeClock:
    """Sleeping moves it."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Bench:
    """Two runs that want one host."""

    def __init__(self, transport: SshTransport, folder: Path) -> None:
        self.host = Host(transport)
        self.folder = folder / "lease"
        self.clock = FakeClock()

    def lease(self, run: str) -> Lease:
        return Lease(self.host, run, folder=str(self.folder), clock=self.clock)

    def soon(self, seconds: float = 0.1) -> Deadline:
        return Deadline.after(seconds, self.clock)

    def age(self, seconds: int, boot: Boot = BOOT, run: str = "old", process: str = "") -> None:
        """Somebody's lease, ``seconds`` old by the host's clock."""
        now = int(self.host.check("date +%s").text)
        self.folder.mkdir()
        (self.folder / "run").write_text(f"{run}\n")
        taken = now - seconds
        text = Holder(run, "bob@elsewhere", str(boot), taken, taken + LIFE, process).text().replace("\\n", "\n")
        (self.folder / "holder").write_text(text)


@pytest.fixture
def bench(transport: SshTransport, tmp_path: Path) -> Bench:
    return Bench(transport, tmp_path)


def test_one_run_has_the_host_and_the_other_is_told_who(bench: Bench) -> None:
    first, second = bench.lease("run-1"), bench.lease("run-2")
    assert first.take(BOOT, bench.soon()) == ""
    with pytest.raises(HostUnready, match=r"leased to \S+@\S+ \(run run-1\) for another (8[89]\d|900) s"):
        second.take(BOOT, bench.soon(20))
    assert bench.clock.time >= 1020  # it waited as long as it was told to
    first.release()
    assert not bench.folder.exists()
    assert second.take(BOOT, bench.soon()) == ""


def test_an_expired_lease_is_broken_and_its_owner_named(bench: Bench) -> None:
    bench.age(LIFE + 60)
    broken = bench.lease("run-2").take(BOOT, bench.soon())
    assert broken.startswith("bob@elsewhere (run old), expired 6")


def test_a_lease_of_another_boot_is_void_unless_its_owner_is_at_work(bench: Bench) -> None:
    bench.age(RENEW + 60, OTHER_BOOT)
    assert "bob@elsewhere" in bench.lease("run-2").take(BOOT, bench.soon())
    bench.lease("run-2").release()
    bench.age(30, OTHER_BOOT)  # renewed a moment ago: its owner is bringing the host back
    with pytest.raises(HostUnready):
        bench.lease("run-3").take(BOOT, bench.soon())


def test_a_replaced_worker_goes_on_with_the_lease_of_its_run(bench: Bench) -> None:
    bench.lease("run-1").take(BOOT, bench.soon())
    again = bench.lease("run-1")
    again.take(OTHER_BOOT, bench.soon())
    holder = again.holder()
    assert holder is not None
    assert holder.boot == OTHER_BOOT.id


def test_a_folder_that_nobody_signed_is_removed_after_a_while(bench: Bench) -> None:
    bench.folder.mkdir()
    bench.lease("run-1").take(BOOT, bench.soon(60))
    assert (bench.folder / "run").read_text() == "run-1\n"


def test_a_run_that_lost_its_host_changes_nothing_more(bench: Bench, tmp_path: Path) -> None:
    lease = bench.lease("run-1")
    lease.take(BOOT, bench.soon())
    target = tmp_path / "touched"
    bench.host.change(f"touch {target}")
    target.unlink()
    (bench.folder / "run").write_text("run-2\n")
    with pytest.raises(LeaseLost):
        bench.host.change(f"touch {target}")
    with pytest.raises(LeaseLost):
        bench.host.put(str(target), b"data")
    assert not target.exists()
    bench.clock.time += RENEW
    with pytest.raises(LeaseLost):
        lease.renew(BOOT)
    lease.release()
    assert bench.folder.exists()  # somebody else's


def test_it_is_renewed_at_a_third_of_its_life(bench: Bench) -> None:
    lease = bench.lease("run-1")
    lease.take(BOOT, bench.soon())
    before = bench.host.transport.channels
    lease.renew(BOOT)
    assert bench.host.transport.channels == before
    bench.clock.time += RENEW
    lease.renew(BOOT)
    assert bench.host.transport.channels > before


def test_a_lease_whose_process_has_ended_here_is_broken_at_once(bench: Bench) -> None:
    """By the process of this very machine that holds it; one that lives, or that cannot be seen, keeps its lease."""
    child = subprocess.Popen(["sleep", "60"])
    name = this_process().split(".")
    alive = ".".join([*name[:2], str(child.pid), _started(child.pid)])
    assert not is_gone(alive)
    bench.age(10, process=alive)
    with pytest.raises(HostUnready, match="leased to bob@elsewhere"):
        bench.lease("run-2").take(BOOT, bench.soon())
    child.kill()
    child.wait()
    assert is_gone(alive)
    assert bench.lease("run-2").take(BOOT, bench.soon()) == "bob@elsewhere (run old), whose process has ended"


@pytest.mark.parametrize("process", ["", "nonsense", "otherboot.4026531836.1.1", "a.b.c.d"])
def test_a_process_that_cannot_be_seen_from_here_is_not_taken_for_ended(process: str) -> None:
    assert not is_gone(process)


def test_the_number_of_an_ended_process_given_to_another_one_is_not_it() -> None:
    name = this_process().split(".")
    assert is_gone(".".join([*name[:3], str(int(name[3]) + 1)]))


def test_a_lease_that_cannot_be_written_is_told_as_that(bench: Bench) -> None:
    """Not as one that somebody else took, and not waited for."""
    lease = bench.lease("run-1")
    lease.take(BOOT, bench.soon())
    (bench.folder / "holder.new").mkdir()
    bench.clock.time += RENEW
    with pytest.raises(HostUnready, match=r"The lease '.*' on '.*' cannot be written"):
        lease.renew(BOOT)
    assert lease.holder() is not None


def test_a_folder_that_can_never_be_made_is_not_waited_for_without_end(bench: Bench) -> None:
    bench.folder.write_text("a file in the way")
    with pytest.raises(HostUnready, match="cannot be written: mkdir"):
        Lease(bench.host, "run-1", folder=f"{bench.folder}/lease", clock=bench.clock).take(BOOT, bench.soon(60))


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
