"""What an act showed, against what was expected of it. Values only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faults.audience import Request

HEAD = (
    "| what | requests | failed | cut | longest gap | next answer after | wanted again after | verdict |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an act must keep.

    `spared` where no request may fail. Else those that ran through what was broken may, and every client that lost one
    has an answer begun within `next_s`. `heal_s` is how long what runs may differ from what is wanted.
    """

    heal_s: float
    spared: bool = True
    next_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One act's row. Times in seconds; `next_s` None where nobody lost a request, infinite where nobody came back."""

    what: str
    requests: int
    failed: int
    cut: int
    gap_s: float
    next_s: float | None
    heal_s: float
    problems: tuple[str, ...]

    @property
    def row(self) -> str:
        """The row of a Markdown table."""
        after = "" if self.next_s is None else f"{self.next_s:.1f} s"
        verdict = "; ".join(self.problems) or "as promised"
        return (
            f"| {self.what} | {self.requests} | {self.failed} | {self.cut} | {self.gap_s * 1000:.0f} ms "
            f"| {after} | {self.heal_s:.1f} s | {verdict} |"
        )


@dataclass(frozen=True, slots=True)
class Times:
    """When an act began, when what runs was again what is wanted, and until when clients were watched afterwards."""

    began: float
    healed: float
    ended: float


def outcome(
    what: str, expected: Expectation, requests: Sequence[Request], times: Times, trouble: str | None = None
) -> Outcome:
    """Judge an act by all that its clients saw. `trouble` is why it did not come to its end."""
    during = [one for one in requests if one.ended >= times.began and one.began <= times.ended]
    failed = [one for one in during if one.problem is not None]
    gaps = [one.gap for one in during if times.began <= one.gap_at <= times.ended]
    next_s = _next_answer(failed, requests)
    heal_s = times.healed - times.began
    problems = [trouble] if trouble else []
    if expected.spared and failed:
        problems.append(f"{len(failed)} requests failed, first: {failed[0].problem}")
    if not expected.spared and next_s is not None and next_s > expected.next_s:
        problems.append(f"a client waited {next_s:.1f} s for its next answer, not {expected.next_s:g} s")
    if heal_s > expected.heal_s:
        problems.append(f"took {heal_s:.0f} s, not {expected.heal_s:g} s")
    if not any(one.problem is None for one in during):
        problems.append("nobody had an answer")
    cut = sum(one.first is not None for one in failed)
    return Outcome(what, len(during), len(failed), cut, max(gaps, default=0.0), next_s, heal_s, tuple(problems))


def _next_answer(failed: Iterable[Request], requests: Sequence[Request]) -> float | None:
    """Give the longest that a client waited from a failure to the first piece of its next whole answer."""
    waits = []
    for one in failed:
        firsts = (other.first for other in requests if other.client == one.client and other.problem is None)
        after = (first for first in firsts if first is not None and first > one.ended)
        waits.append(min(after, default=math.inf) - one.ended)
    return max(waits, default=None)
