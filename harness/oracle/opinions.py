"""What a third implementation says of the guest-only cases. It is asked, never believed against a manual."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue import SUITES, expectations
from harness.errors import ConfigError, GuestHang
from harness.oracle.qemu import QemuSubject
from harness.plugin.collection import case_of
from harness.recording import NullRecorder
from harness.results import outcome_of
from harness.subjects import Subject
from harness.subjects.bare import BareSubject
from harness.verdicts import Verdict

#: What a case may need and still be asked without a hypervisor.
_BARE = {"bare", "smp"}


class Opinion(StrEnum):
    """What QEMU says beside bare Bochs, which is the oracle that cells are held against."""

    AGREES = "agrees"  #: both hold the rule
    DIFFERS = "differs"  #: Bochs holds the rule, QEMU does not
    SUPPORTS = "supports the rule"  #: Bochs is known to break it here, QEMU holds it
    SHARES = "breaks the rule as well"  #: both do, each perhaps in its own way
    NONE = "has no opinion"  #: one of them gave no answer


@dataclass(frozen=True, slots=True)
class Compared:
    """One variant of a case on both. ``predicted`` is whether Bochs' failure is declared as its own error."""

    case: str
    test: str
    vendor: str
    bochs: Verdict
    predicted: bool
    qemu: Verdict
    code: str
    message: str

    @property
    def opinion(self) -> Opinion:
        # A program that does not end says nothing of the rule that it was to ask.
        if {self.bochs, self.qemu} - {Verdict.PASS, Verdict.FAIL} or self.code == GuestHang.code:
            return Opinion.NONE
        held = self.qemu is Verdict.PASS
        if self.bochs is Verdict.PASS:
            return Opinion.AGREES if held else Opinion.DIFFERS
        return Opinion.SUPPORTS if held else Opinion.SHARES

    def as_dict(self) -> dict[str, Any]:
        return {
            "case": self.case, "test": self.test, "vendor": self.vendor, "opinion": self.opinion.value,
            "bochs": self.bochs.value, "declared_error_of_bochs": self.predicted, "qemu": self.qemu.value,
            "code": self.code, "message": self.message,
        }  # fmt: skip


class Asker:
    """A pytest plugin of its own: no hosts, no verdicts, no exit status; each test on Bochs and on QEMU."""

    def __init__(self, vendors: Iterable[str], cases: tuple[str, ...], variants: int) -> None:
        self._vendors = tuple(vendors)
        self._cases = cases
        self._variants = variants
        self._outcomes: dict[tuple[str, str], tuple[Verdict, str, str]] = {}
        self._items: dict[tuple[str, str], pytest.Item] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        for marker in ("case(metadata): a case", "needs(*capabilities): what a variant needs"):
            config.addinivalue_line("markers", marker)

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        emulator, _, vendor = str(request.param).partition("_")
        return QemuSubject(vendor) if emulator == "qemu" else BareSubject(f"bare{vendor}", vendor, NullRecorder())

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "subject" in metafunc.fixturenames:
            places = [f"{emulator}_{vendor}" for vendor in self._vendors for emulator in ("bochs", "qemu")]
            metafunc.parametrize("subject", places, indirect=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if isinstance(item, pytest.Function) and self._wanted(item)]
        by_function: dict[tuple[str, str], list[pytest.Function]] = {}
        for item in chosen:
            by_function.setdefault((item.nodeid.partition("[")[0], _place(item)), []).append(item)
        kept = []
        for variants in by_function.values():
            step = max(1, len(variants) // self._variants) if self._variants else 1
            kept += variants[::step][: self._variants or None]
        items[:] = kept
        self._items = {_key(item): item for item in kept}

    def _wanted(self, item: pytest.Function) -> bool:
        metadata = case_of(item)
        if metadata is None or "stress" in item.fixturenames or (self._cases and metadata.id not in self._cases):
            return False
        needed = {*metadata.needs, *(name for mark in item.iter_markers("needs") for name in mark.args)}
        return needed <= _BARE and _place(item).partition("_")[2] in metadata.vendors

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        key = _key(item)
        if call.excinfo is not None and key not in self._outcomes:
            found = outcome_of(call.excinfo.value)
            self._outcomes[key] = (found.verdict, found.code, found.message)
        elif report.when == "call":
            self._outcomes.setdefault(key, (Verdict.PASS, "", ""))
        return report

    def compared(self) -> list[Compared]:
        """Pairs of answers, in the order of the suites."""
        found = []
        for (test, place), item in self._items.items():
            emulator, _, vendor = place.partition("_")
            twin = (test, f"bochs_{vendor}")
            if emulator != "qemu" or (test, place) not in self._outcomes or twin not in self._outcomes:
                continue
            metadata = case_of(item)
            assert metadata is not None, "only items with a case are kept"
            bochs, code, _ = self._outcomes[twin]
            qemu, qemu_code, message = self._outcomes[test, place]
            variant = test.partition("[")[2].rstrip("]").split("-")
            declared = (*metadata.expected, *expectations(item.path.parent).get(metadata.id, ()))
            function = test.rpartition("::")[2].partition("[")[0]
            predicted = any(
                entry.code == code and entry.matches("bare", vendor, variant, function) for entry in declared
            )
            found.append(Compared(metadata.id, test, vendor, bochs, predicted, qemu, qemu_code, message))
        return found


def ask(vendors: Iterable[str], cases: tuple[str, ...], variants: int, suites: Path = SUITES) -> list[Compared]:
    """Run the guest-only cases on bare Bochs and in QEMU: ``variants`` of each test, 0 for all.

    Raises :class:`ConfigError` when the suites cannot be collected.
    """
    asker = Asker(vendors, cases, variants)
    words = ["-q", "--tb=no", "--no-header", "-p", "no:harness.plugin", "-p", "no:cacheprovider", "-o", "addopts="]
    # What pytest says of passes and failures would be read as verdicts.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = pytest.main([*words, f"--rootdir={suites.resolve().parent}", "-s", str(suites)], plugins=[asker])
    if status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.INTERRUPTED):
        raise ConfigError(
            "The suites could not be run for the oracle.", help="Run 'pytest --collect-only suites' to see why."
        )
    return asker.compared()


def _place(item: pytest.Function) -> str:
    return str(item.callspec.params["subject"])


def _key(item: pytest.Item) -> tuple[str, str]:
    """(test with its parameters but without the place, place)."""
    assert isinstance(item, pytest.Function)
    place = _place(item)
    name, _, parameters = item.nodeid.partition("[")
    rest = parameters.rstrip("]").removeprefix(place).removeprefix("-")
    return (f"{name}[{rest}]" if rest else name, place)
