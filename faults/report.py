"""What an act showed, against what was expected of it. Values only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

HEAD = (
    "| what | requests | failed | cut | longest wait | longest gap | next answer after | wanted again after | writes "
    "| data lost | verdict |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)

GAP_TIMES = 2.0
"""How much longer than when nothing happens the longest gap may be while other models change."""


class Harm(IntEnum):
    """The worst that an act may do to those who stream."""

    NONE = 0
    """No request fails."""
    REFUSED = 1
    """Requests may fail before their first piece; what has begun ends whole."""
    CUT = 2
    """Streams through what is broken end early."""


@dataclass(frozen=True, slots=True)
class Request:
    """How one request went for one client. Times are `time.monotonic()`, seconds.

    `first` is when the answer's first piece came, None where none did. `problem` is None where the answer came whole.
    `gap` is the longest time between two of its pieces, which ended at `gap_at`.
    """

    client: int
    began: float
    first: float | None
    ended: float
    problem: str | None
    gap: float
    gap_at: float


@dataclass(frozen=True, slots=True)
class Write:
    """How one write through the API went: `commit` where it was acknowledged, else `problem`."""

    writer: int
    began: float
    ended: float
    commit: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an act must keep.

    Attributes:
        heal_s: How long what runs may differ from what is wanted, in seconds.
        harm: What users may notice at worst.
        next_s: Where they may: every client that lost a request has an answer begun within so many seconds.
        gap_times: The longest gap between two pieces may be so many times that of the same run's quiet act.
        writes_fail: Whether writes may be refused meanwhile. None that was acknowledged may be lost, ever.
        loses: What may be gone afterwards.
    """

    heal_s: float
    harm: Harm = Harm.NONE
    next_s: float = 0.0
    gap_times: float | None = None
    writes_fail: bool = False
    loses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One act's row. Times in seconds; `next_s` None where nobody lost a request, infinite where nobody came back.

    `wait_s` is the longest that anybody waited for the first piece of an answer, `gap_s` for a later one.
    `skipped` is why the act could not be played, which is no failure; `judged` is False where nothing was promised;
    `failures` are some of the ways in which requests failed.
    """

    name: str
    what: str
    requests: int = 0
    failed: int = 0
    cut: int = 0
    wait_s: float = 0.0
    gap_s: float = 0.0
    next_s: float | None = None
    heal_s: float = 0.0
    writes: int = 0
    writes_failed: int = 0
    lost: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    skipped: str | None = None
    judged: bool = True
    failures: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        """The row of a Markdown table."""
        if self.skipped is not None:
            return f"| {self.what} |" + " |" * 9 + f" not played: {_cell(self.skipped)} |"
        after = "" if self.next_s is None else "never" if math.isinf(self.next_s) else f"{self.next_s:.1f} s"
        writes = f"{self.writes}" + (f", {self.writes_failed} refused" if self.writes_failed else "")
        verdict = "; ".join(_cell(problem) for problem in self.problems) or ("as promised" if self.judged else "")
        cells = [
            self.what,
            *(str(count) for count in (self.requests, self.failed, self.cut)),
            _short(self.wait_s),
            _short(self.gap_s),
            after,
            f"{self.heal_s:.1f} s",
            writes,
            ", ".join(self.lost) or "nothing",
            verdict,
        ]
        return f"| {' | '.join(cells)} |"

    @property
    def record(self) -> Mapping[str, Any]:
        """The row for machines."""
        return {**asdict(self), "next_s": None if self.next_s is None or math.isinf(self.next_s) else self.next_s}


@dataclass(frozen=True, slots=True)
class Times:
    """When an act began, when what runs was again what is wanted, and until when clients were watched afterwards."""

    began: float
    healed: float
    ended: float


def outcome(
    name: str,
    what: str,
    expected: Expectation | None,
    requests: Sequence[Request],
    times: Times,
    *,
    writes: Sequence[Write] = (),
    lost: Sequence[str] = (),
    quiet_gap_s: float | None = None,
    trouble: str | None = None,
) -> Outcome:
    """Judge an act by all that its clients saw.

    Args:
        name: The act's.
        what: What it does, for the table.
        expected: What it must keep; None where it is only looked at.
        requests: All of the run; those that overlap the act count.
        times: When it was.
        writes: All of the run's.
        lost: What was there before and is not there now.
        quiet_gap_s: The longest gap when nothing happened, None where that was not measured.
        trouble: Why the act did not come to its end.
    """
    during = [one for one in requests if one.ended >= times.began and one.began <= times.ended]
    failed = [one for one in during if one.problem is not None]
    waits = [one.first - one.began for one in during if one.first is not None and one.first >= times.began]
    gaps = [one.gap for one in during if times.began <= one.gap_at <= times.ended]
    written = [one for one in writes if one.ended >= times.began and one.began <= times.ended]
    seen = Outcome(
        name=name,
        what=what,
        requests=len(during),
        failed=len(failed),
        cut=sum(one.first is not None for one in failed),
        wait_s=max(waits, default=0.0),
        gap_s=max(gaps, default=0.0),
        next_s=_next_answer(failed, requests),
        heal_s=times.healed - times.began,
        writes=sum(one.commit is not None for one in written),
        writes_failed=sum(one.problem is not None for one in written),
        lost=tuple(lost),
        judged=expected is not None,
        failures=tuple(sorted({_cell(one.problem or "", 120) for one in failed})[:5]),
    )
    problems = [trouble] if trouble else []
    if not any(one.problem is None for one in during):
        problems.append("nobody had an answer")
    if expected is not None:
        problems += _missed(seen, expected, failed, written, quiet_gap_s)
    return Outcome(**{**asdict(seen), "problems": tuple(problems)})


def _missed(
    seen: Outcome,
    expected: Expectation,
    failed: Sequence[Request],
    writes: Sequence[Write],
    quiet_gap_s: float | None,
) -> list[str]:
    """Say what an act did not keep."""
    problems = []
    if expected.harm is Harm.NONE and failed:
        problems.append(f"{len(failed)} requests failed, first: {failed[0].problem}")
    if expected.harm is Harm.REFUSED and seen.cut:
        first = next(one for one in failed if one.first is not None)
        problems.append(f"{seen.cut} streams were cut, first: {first.problem}")
    if expected.harm is not Harm.NONE and seen.next_s is not None and seen.next_s > expected.next_s:
        problems.append(f"a client waited {seen.next_s:.1f} s for its next answer, not {expected.next_s:g} s")
    if seen.heal_s > expected.heal_s:
        problems.append(f"took {seen.heal_s:.0f} s, not {expected.heal_s:g} s")
    if expected.gap_times and quiet_gap_s and seen.gap_s > expected.gap_times * quiet_gap_s:
        limit_ms = expected.gap_times * quiet_gap_s * 1000
        problems.append(f"a gap of {seen.gap_s * 1000:.0f} ms, not {limit_ms:.0f} ms")
    refused = [one for one in writes if one.problem is not None]
    if refused and not expected.writes_fail:
        problems.append(f"{len(refused)} writes were refused, first: {refused[0].problem}")
    if gone := [each for each in seen.lost if each not in expected.loses]:
        problems.append(f"lost: {', '.join(gone)}")
    return problems


def table(outcomes: Iterable[Outcome]) -> str:
    """Give all rows as a Markdown table."""
    return "\n".join([HEAD, *(one.row for one in outcomes)])


def placed(text: str, marker: str, block: str) -> str:
    """Put `block` between `<!-- <marker>:begin -->` and its end, in place of what stands there.

    Raises ValueError where `text` has no such place.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no place between {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def _next_answer(failed: Iterable[Request], requests: Sequence[Request]) -> float | None:
    """Give the longest that a client waited from a failure to the first piece of its next whole answer."""
    whole: dict[int, list[float]] = {}
    for one in requests:
        if one.problem is None and one.first is not None:
            whole.setdefault(one.client, []).append(one.first)
    waits = []
    for one in failed:
        after = (first for first in whole.get(one.client, ()) if first > one.ended)
        waits.append(min(after, default=math.inf) - one.ended)
    return max(waits, default=None)


def _short(seconds: float) -> str:
    """Give a time from milliseconds to minutes so that it is read at a glance."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _cell(text: str, limit: int = 300) -> str:
    """Make words fit for a table's cell."""
    return " ".join(text.replace("|", "/").split())[:limit]
