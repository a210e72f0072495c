"""Deadlines and waiting, on the monotonic clock only.

``sleep`` is called nowhere else in the harness: whoever waits says for what, and until when.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from harness.errors import CommandTimeout, VmmcheckError

T = TypeVar("T")


class Clock(Protocol):
    """Source of monotonic seconds, and the only way to sleep."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class MonotonicClock:
    """The real clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


CLOCK: Clock = MonotonicClock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; made once at the outermost call and handed down."""

    at: float
    seconds: float
    clock: Clock = CLOCK

    @classmethod
    def after(cls, seconds: float, clock: Clock = CLOCK) -> Deadline:
        """Deadline ``seconds`` from now."""
        return cls(clock.now() + seconds, seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock.now())

    def expired(self) -> bool:
        return self.clock.now() >= self.at

    def at_most(self, seconds: float) -> Deadline:
        """The earlier of this deadline and ``seconds`` from now: limits nest, each inside the next."""
        inner = Deadline.after(seconds, self.clock)
        return inner if inner.at < self.at else self


def wait_until(
    predicate: Callable[[], T | None],
    deadline: Deadline,
    describe: str,
    *,
    interval: float = 0.01,
    error: type[VmmcheckError] = CommandTimeout,
) -> T:
    """Poll ``predicate`` until it returns something true and return that.

    Raises ``error`` with what was waited for and what was seen last when the deadline passes.
    """
    seen: T | None = None
    while True:
        seen = predicate()
        if seen:
            return seen
        if deadline.expired():
            raise error(f"Waited {deadline.seconds:g} s for {describe}; last seen: {seen!r}.")
        deadline.clock.sleep(min(interval, deadline.remaining()))
