"""Verdicts in the ledger: written by the loop with the rest of a pass, read by the API page by page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, func, select, tuple_, update

from reconciler.core.cases import Case, CaseId, Verdict
from reconciler.shell.ledger import rows
from reconciler.shell.ledger.engine import reading, upsert
from reconciler.shell.ledger.schema import ONLY, loop, verdicts

OPEN, CLOSED, PUBLISHED = "OPEN", "CLOSED", "PUBLISHED"

_Value = TypeVar("_Value")

_AT_A_TIME = 500
"""Values in one statement: databases take a few thousand at most."""


def write(connection: Connection, cases: Sequence[Case], restored: Sequence[Case]) -> None:
    """Write what a pass opened, changed and closed, and what git notes told. What is closed already stays as it is."""
    published = {case.id for case in restored}
    ordered = [*restored, *cases]
    if restored:  # a ledger that is new: what it learns from two sides goes into one order
        ordered.sort(key=lambda case: case.commit.committed_at)
    numbers = _numbers(connection, [case.commit.sha for case in ordered])
    written = [_row(case, numbers[case.commit.sha], published=case.id in published) for case in ordered]
    upsert(connection, verdicts, written, only_where=verdicts.c.phase == OPEN)


def open_cases(connection: Connection) -> tuple[Case, ...]:
    """Give the cases without a verdict, oldest first."""
    statement = select(verdicts.c.document).where(verdicts.c.phase == OPEN)
    return _cases(connection.execute(statement.order_by(verdicts.c.number, verdicts.c.path)).scalars())


def of_commits(connection: Connection, shas: Collection[str]) -> dict[str, tuple[Case, ...]]:
    """Give all cases of these commits, by path; none for a commit that has none."""
    found: dict[str, list[Case]] = {}
    for some in _some_of(list(dict.fromkeys(shas))):
        statement = select(verdicts.c.commit_sha, verdicts.c.document).where(verdicts.c.commit_sha.in_(some))
        for sha, document in connection.execute(statement.order_by(verdicts.c.path)):
            found.setdefault(sha, []).append(rows.case_of(document))
    return {sha: tuple(cases) for sha, cases in found.items()}


def on_record(connection: Connection, commits: Collection[str]) -> frozenset[CaseId]:
    """Keep `ports.Ledger.on_record`."""
    found: set[CaseId] = set()
    for some in _some_of(list(commits)):
        statement = select(verdicts.c.commit_sha, verdicts.c.path).where(verdicts.c.commit_sha.in_(some))
        found |= {(sha, path) for sha, path in connection.execute(statement)}
    return frozenset(found)


def unpublished(connection: Connection, commits: int) -> tuple[Case, ...]:
    """Keep `ports.Ledger.unpublished`."""
    due = select(verdicts.c.number).where(verdicts.c.phase == CLOSED).distinct().order_by(verdicts.c.number)
    numbers = connection.execute(due.limit(commits)).scalars().all()
    found: list[str] = []
    for some in _some_of(numbers):
        statement = select(verdicts.c.document).where(verdicts.c.number.in_(some), verdicts.c.phase != OPEN)
        found += connection.execute(statement.order_by(verdicts.c.number, verdicts.c.path)).scalars()
    return _cases(found)


def mark_published(connection: Connection, cases: Iterable[Case]) -> None:
    """Keep `ports.Ledger.published`."""
    for some in _some_of([case.id for case in cases]):
        mine = tuple_(verdicts.c.commit_sha, verdicts.c.path).in_(some)
        connection.execute(update(verdicts).where(mine, verdicts.c.phase == CLOSED).values(phase=PUBLISHED))


class Stand(NamedTuple):
    """How far the ledger is: `base` grows with whatever it learns; the branch is judged up to `revision`, if to any."""

    base: int
    revision: str | None


class VerdictReader:
    """Verdicts as the API sees them. Safe for threads. Every method raises LedgerUnreachable."""

    def __init__(self, engine: Engine) -> None:
        """Read the ledger at `engine` (`open_ledger`)."""
        self._engine = engine

    def page(self, user_id: str | None, limit: int, before: int | None = None) -> list[tuple[int, tuple[Case, ...]]]:
        """Give at most `limit` commits, newest first, each as its number and its cases, by path.

        Of a user's, only those that touch a file of theirs, and only those files; everybody's where `user_id` is None.
        It goes on below the number `before`.
        """
        mine = [] if user_id is None else [verdicts.c.user_id == user_id]
        older = [] if before is None else [verdicts.c.number < before]
        numbers = select(verdicts.c.number).where(*mine, *older).distinct().order_by(verdicts.c.number.desc())
        with reading(self._engine) as connection:
            chosen = connection.execute(numbers.limit(limit)).scalars().all()
            statement = select(verdicts.c.number, verdicts.c.document).where(verdicts.c.number.in_(chosen), *mine)
            found = connection.execute(statement.order_by(verdicts.c.path)).all()
        cases: dict[int, list[Case]] = {number: [] for number in chosen}
        for number, document in found:
            cases[number].append(rows.case_of(document))
        return [(number, tuple(each)) for number, each in cases.items()]

    def commits(self, prefix: str) -> list[str]:
        """Give the full SHAs that begin with `prefix`, in order: a hundred of them at most."""
        sha = verdicts.c.commit_sha
        # 'g' is the first letter behind the hexadecimal digits.
        statement = select(sha).where(sha >= prefix, sha < f"{prefix}g").distinct().order_by(sha).limit(100)
        with reading(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def of_commit(self, sha: str) -> tuple[Case, ...]:
        """Give a commit's cases, by path: none where no pass has seen it, or where it touches no spec file."""
        statement = select(verdicts.c.document).where(verdicts.c.commit_sha == sha).order_by(verdicts.c.path)
        with reading(self._engine) as connection:
            return _cases(connection.execute(statement).scalars())

    def of_model(self, model_key: str, shas: Collection[str]) -> dict[str, Verdict]:
        """Give the verdicts on a model's file at these commits (full SHAs, at most a page of them), by SHA."""
        statement = select(verdicts.c.commit_sha, verdicts.c.verdict).where(
            verdicts.c.commit_sha.in_(shas), verdicts.c.model_key == model_key, verdicts.c.verdict.is_not(None)
        )
        with reading(self._engine) as connection:
            return {sha: Verdict(verdict) for sha, verdict in connection.execute(statement)}

    def stand(self) -> Stand:
        """Say how far the ledger is."""
        with reading(self._engine) as connection:
            return Stand(*connection.execute(select(loop.c.base, loop.c.revision).where(loop.c.id == ONLY)).one())


def _some_of(values: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    return (values[start : start + _AT_A_TIME] for start in range(0, len(values), _AT_A_TIME))


def _numbers(connection: Connection, shas: Sequence[str]) -> dict[str, int]:
    """Give each commit its number: the one that it has, or the next."""
    distinct = list(dict.fromkeys(shas))
    known: dict[str, int] = {}
    for some in _some_of(distinct):
        statement = select(verdicts.c.commit_sha, verdicts.c.number).where(verdicts.c.commit_sha.in_(some))
        known |= {row.commit_sha: row.number for row in connection.execute(statement)}
    last: int = connection.execute(select(func.max(verdicts.c.number))).scalar() or 0
    new = [sha for sha in distinct if sha not in known]
    return known | {sha: number for number, sha in enumerate(new, start=last + 1)}


def _row(case: Case, number: int, *, published: bool) -> dict[str, Any]:
    phase = OPEN if case.verdict is None else PUBLISHED if published else CLOSED
    return {**rows.case_row(case), "number": number, "phase": phase}


def _cases(documents: Iterable[str]) -> tuple[Case, ...]:
    return tuple(rows.case_of(document) for document in documents)
