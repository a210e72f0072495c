"""What one run says about one commit, in the exit status that ``git bisect run`` understands.

Good and bad are only ever said of answers about the product. Whatever else happened is a commit that cannot be judged
(it is skipped), or, where no commit could be judged any more, the end of the bisection: skipping everything would blame
a commit that nobody looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.errors import (
    BuildFailed,
    ConfigError,
    EmulatorFailed,
    HostLost,
    HostUnready,
    LeaseLost,
    NotStarted,
    SshAuthFailed,
    SshUnreachable,
    VmmcheckError,
    all_errors,
)
from harness.verdicts import Verdict


class Answer(IntEnum):
    """Exit status for ``git bisect run``: from 128 on it stops."""

    GOOD = 0
    BAD = 1
    SKIP = 125
    ABORT = 128
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Judgement:
    """``bad`` are the cells that speak against the commit."""

    answer: Answer
    why: str
    bad: tuple[Mapping[str, Any], ...] = ()


#: Codes of cells that say: the lab is gone, or what the user wrote cannot be used. The next commit would fare the same.
_LAB: tuple[type[VmmcheckError], ...] = (
    EmulatorFailed,
    HostLost,
    HostUnready,
    LeaseLost,
    NotStarted,
    SshAuthFailed,
    SshUnreachable,
)
_CONFIG = [error for error in all_errors() if issubclass(error, ConfigError) and not issubclass(error, BuildFailed)]
_GONE = {error.code for error in (*_LAB, *_CONFIG)}


def judge_run(cells: Sequence[Mapping[str, Any]], code: str = "") -> Judgement:
    """Judge the cells of one run (entries of results.json). With ``code`` only a failure that carries it is bad."""
    if not cells:
        return Judgement(Answer.ABORT, "no cell was planned: check --case and --host")
    verdicts = [Verdict(cell["verdict"]) for cell in cells]
    red = [cell for cell, verdict in zip(cells, verdicts, strict=True) if verdict.is_product_failure]
    # A predicted failure (XFAIL) is one when its code is asked for.
    asked = [cell for cell in cells if code and cell["code"] == code and Verdict(cell["raw"]).is_product_failure]
    bad = asked if code else red
    if bad:
        return Judgement(Answer.BAD, f"{_count(bad)}: {_told(bad[0])}", tuple(bad))
    if red:
        return Judgement(Answer.SKIP, f"fails in another way than {code}: {_told(red[0])}")
    unanswered = [cell for cell, verdict in zip(cells, verdicts, strict=True) if verdict.is_unanswered]
    if unanswered:
        return _unanswered(cells, unanswered)
    if Verdict.FLAKY in verdicts:
        return Judgement(Answer.SKIP, "attempts of a cell disagreed")
    counts = Counter(verdicts)
    answered = len(cells) - counts[Verdict.SKIP]
    if not answered:
        return Judgement(Answer.SKIP, f"every cell was skipped: {cells[0]['message']}")
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return Judgement(Answer.GOOD, told)


def judge_confirmed(first: Judgement, repetitions: Sequence[Judgement]) -> Judgement:
    """``bad`` stands when every repetition says so too; otherwise the commit cannot be judged."""
    if first.answer is not Answer.BAD:
        return first
    for number, again in enumerate(repetitions, 1):
        if again.answer is not Answer.BAD:
            if again.answer >= Answer.ABORT:
                return again
            return Judgement(Answer.SKIP, f"repetition {number} does not confirm it ({again.why}), first: {first.why}")
    confirmed = f"; repeated {len(repetitions)} times, bad each time" if repetitions else ""
    return Judgement(Answer.BAD, first.why + confirmed, first.bad)


def _unanswered(cells: Sequence[Mapping[str, Any]], unanswered: Sequence[Mapping[str, Any]]) -> Judgement:
    built = [cell for cell in unanswered if cell["code"] == BuildFailed.code]
    if built:
        return Judgement(Answer.SKIP, _told(built[0]))
    told = f"{_count(unanswered)} without an answer: {_told(unanswered[0])}"
    if len(unanswered) == len(cells) and all(cell["code"] in _GONE for cell in unanswered):
        return Judgement(Answer.ABORT, told)
    return Judgement(Answer.SKIP, told)


def _count(cells: Sequence[Mapping[str, Any]]) -> str:
    return f"{len(cells)} cell" if len(cells) == 1 else f"{len(cells)} cells"


def _told(cell: Mapping[str, Any]) -> str:
    message = " ".join(str(cell["message"]).split())
    return f"{cell['host']} {cell['test'].rpartition('::')[2]}: {cell['verdict']} {cell['code']}: {message[:300]}"
