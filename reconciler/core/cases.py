"""The values of verdicts: a commit's change of one spec file is a case, and its verdict what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from reconciler.core.entities import Commit

LONGEST_MESSAGE = 2000


class Verdict(StrEnum):
    """What can become of a commit's change of one spec file."""

    APPLIED = "APPLIED"
    """What it asks for answers, with all its replicas."""
    NO_CHANGE = "NO_CHANGE"
    """It says what was said before: comments, order, or nothing that Argus reads."""
    REJECTED = "REJECTED"
    """Its content is refused; its model holds at what was accepted before."""
    HELD = "HELD"
    """A policy keeps it from counting."""
    SUPERSEDED = "SUPERSEDED"
    """A later commit took its place before it came to anything."""
    FAILED = "FAILED"
    """Its first attempt failed. Whether a later one succeeds is told by events."""
    REMOVED = "REMOVED"
    """The model is gone, with its last replica."""


WORST_FIRST = (
    Verdict.FAILED,
    Verdict.REJECTED,
    Verdict.HELD,
    Verdict.SUPERSEDED,
    Verdict.REMOVED,
    Verdict.APPLIED,
    Verdict.NO_CHANGE,
)


@dataclass(frozen=True, slots=True)
class Stages:
    """When a change reached what it has to go through; None for what it has not reached (or never will).

    `committed` is git's time; the others are times of passes: `seen` read it, `planned` decided for it, `applied` asked
    Serve for it, `ready` found that it answers (or, for a removal, that the model is gone).
    """

    committed: datetime
    seen: datetime | None = None
    planned: datetime | None = None
    applied: datetime | None = None
    ready: datetime | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One commit's change of one spec file, and what became of it. `verdict` is None while the case is open.

    `removes` says that the commit took the file away. `line` and `column` count from 1 and point into a file that was
    refused. `superseded_by` is the full SHA of a later commit that touches the same path, or of a rewritten branch's
    tip (None where that is unborn).
    """

    commit: Commit
    path: str
    model_key: str
    user_id: str
    removes: bool
    stages: Stages
    verdict: Verdict | None = None
    message: str | None = None
    line: int | None = None
    column: int | None = None
    superseded_by: str | None = None

    @property
    def id(self) -> CaseId:
        """What tells it from every other case."""
        return (self.commit.sha, self.path)


CaseId: TypeAlias = tuple[str, str]
"""A commit's full SHA and the path of a spec file that it touched."""


def worst(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Give the verdict on a whole commit from those on its files: None while one is open, NO_CHANGE without files."""
    found = set(verdicts)
    if None in found:
        return None
    return next((verdict for verdict in WORST_FIRST if verdict in found), Verdict.NO_CHANGE)


def stages_of(cases: Sequence[Case]) -> Stages:
    """Give the stages of a whole commit, which has at least one case: each at the time of the last file to reach it.

    A stage that an open case has not reached is None.
    """

    def last(times: Iterable[tuple[Case, datetime | None]]) -> datetime | None:
        reached = list(times)
        if any(time is None and case.verdict is None for case, time in reached):
            return None
        return max((time for _, time in reached if time is not None), default=None)

    return Stages(
        committed=cases[0].commit.committed_at,
        seen=last((case, case.stages.seen) for case in cases),
        planned=last((case, case.stages.planned) for case in cases),
        applied=last((case, case.stages.applied) for case in cases),
        ready=last((case, case.stages.ready) for case in cases),
    )
