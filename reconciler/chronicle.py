"""Verdicts beyond the ledger: published as git notes after a pass, read back into a ledger that is new.

Publishing is never a pass's business: a remote that refuses notes is asked again later, and the loop goes on. What is
closed in the ledger and not marked as published is due, so nothing that a `kill -9` interrupts is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.core import notes as form
from reconciler.core.cases import Case
from reconciler.core.entities import FileChange
from reconciler.errors import SourceUnreachable, Unreachable
from reconciler.ports import Ledger, Notes

log = logging.getLogger(__name__)

MOST_AT_A_TIME = 1000
"""Commits whose notes one pass publishes at most; the next pass goes on."""

MOST_READ_BACK = 20_000
"""Commits, the newest of the branch, whose verdicts a new ledger asks the notes for."""

AGAIN_AFTER_S = (15, 60, 300, 900)
"""Pauses after the 1st, 2nd, ... failure in a row to publish; the last one repeats."""

ENOUGH_TRIES = 3
"""A new ledger begins without its past when the notes could not be read so many times: serving comes first."""


class NoNotes:
    """`ports.Notes` where verdicts stay in the ledger alone."""

    def read(self, commits: Sequence[str]) -> Mapping[str, str]:
        """Keep `ports.Notes.read`: there are none."""
        return {}

    def publish(self, notes: Mapping[str, str]) -> None:
        """Keep `ports.Notes.publish` by doing nothing."""


@dataclass(slots=True)
class Chronicle:
    """The loop's way to the notes. `error` says why verdicts are not published, None while they are."""

    notes: Notes
    ledger: Ledger
    error: str | None = None
    _failures: int = 0
    _again_at: datetime | None = None
    _unread: int = 0

    def restored(self, history: Sequence[FileChange]) -> tuple[Case, ...]:
        """Give the closed cases that the notes tell of commits in `history`. Raises SourceUnreachable, not for ever."""
        newest = list(dict.fromkeys(change.commit.sha for change in reversed(history)))[:MOST_READ_BACK]
        if not newest:
            return ()
        try:
            found = self.notes.read(newest)
        except SourceUnreachable as error:
            self._unread += 1
            if self._unread < ENOUGH_TRIES:
                raise
            log.warning("verdicts of the past are not read back: %s", error)
            return ()
        return form.restored(found, history)

    def publish(self, now: datetime) -> None:
        """Publish what is due, unless that failed a moment ago. Never raises Unreachable: `error` says it."""
        if self._again_at is not None and now < self._again_at:
            return
        try:
            due = self.ledger.unpublished(MOST_AT_A_TIME)
            if due:
                self.notes.publish(_by_commit(due))
                self.ledger.published(due)
        except Unreachable as error:
            pause = AGAIN_AFTER_S[min(self._failures, len(AGAIN_AFTER_S) - 1)]
            if str(error) != self.error:
                log.warning("verdicts are not published as git notes: %s", error)
            self.error = str(error)
            self._failures += 1
            self._again_at = now + timedelta(seconds=pause)
        else:
            self.error, self._failures, self._again_at = None, 0, None


def _by_commit(cases: Sequence[Case]) -> dict[str, str]:
    commits: dict[str, list[Case]] = {}
    for case in cases:
        commits.setdefault(case.commit.sha, []).append(case)
    return {sha: form.text(found) for sha, found in commits.items()}
