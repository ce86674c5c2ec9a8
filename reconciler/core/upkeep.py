"""What is remembered of the application in Serve from pass to pass, and how long something is fought for. Pure.

Kept by the ledger. What is drift says `core.drift`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from reconciler.core.differences import Difference, Kind
from reconciler.core.times import iso

WINDOW = timedelta(minutes=5)
MOST_CORRECTIONS = 3
"""So often in a `WINDOW` is one thing put right; the next difference begins a pause."""
PAUSES = (timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=5), timedelta(minutes=15))
"""The last one repeats. What holds for a `WINDOW` after it was put right is forgotten."""


@dataclass(frozen=True, slots=True)
class Fight:
    """How often one thing was put right of late.

    `corrected` are the last times, oldest first. `pauses` counts those that were begun, `until` is the end of the one
    that is on. `commit` is the model's newest when it was found ("" for what is no model's): a newer one ends it all.
    """

    commit: str
    corrected: tuple[datetime, ...] = ()
    pauses: int = 0
    until: datetime | None = None

    def is_over(self, now: datetime) -> bool:
        """Say whether what was put right last has held."""
        last = max([*self.corrected, *([self.until] if self.until else [])], default=now)
        return now - last > WINDOW

    def is_bitter(self, now: datetime) -> bool:
        """Say whether the next difference is not to be put right at once."""
        recent = [at for at in self.corrected if now - at <= WINDOW]
        return self.pauses > 0 or len(recent) >= MOST_CORRECTIONS

    def put_right(self, now: datetime) -> Fight:
        """Count a correction. One that a pause did not hold back does not end it either."""
        until = self.until if self.until is not None and now < self.until else None
        return replace(self, corrected=(*self.corrected, now)[-MOST_CORRECTIONS:], until=until)

    def paused(self, now: datetime) -> Fight:
        """Begin the next pause."""
        return replace(self, pauses=self.pauses + 1, until=now + PAUSES[min(self.pauses, len(PAUSES) - 1)])


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is remembered of the application from pass to pass.

    `session` and `root` (see `Observation`) are those for which Serve last held what it was asked for, or was asked for
    it; None before that. `asked_at` is when it was last asked. `fights` are by subject. `intended` is what a pass was
    about to put right and has not told: empty, unless it died in between.
    """

    session: str | None = None
    root: str | None = None
    asked_at: datetime | None = None
    fights: Mapping[str, Fight] = field(default_factory=dict, hash=False)
    intended: tuple[Difference, ...] = ()

    def to_json(self) -> str:
        """Give it as text, in ASCII."""
        fights = {
            subject: [fight.commit, [text_of(at) for at in fight.corrected], fight.pauses, text_of(fight.until)]
            for subject, fight in self.fights.items()
        }
        intended = [[one.subject, one.kind.value, one.asked, one.found] for one in self.intended]
        # Where there are none, this is what earlier versions read and wrote.
        return json.dumps([self.session, self.root, text_of(self.asked_at), fights, *([intended] if intended else [])])

    @classmethod
    def from_json(cls, text: str) -> Upkeep:
        """Read what `to_json` gave."""
        session, root, asked_at, fights, *more = json.loads(text)
        read = {
            subject: Fight(commit, tuple(datetime.fromisoformat(at) for at in corrected), pauses, _time(until))
            for subject, (commit, corrected, pauses, until) in fights.items()
        }
        intended = (Difference(subject, Kind(kind), *what) for subject, kind, *what in (more[0] if more else ()))
        return cls(session, root, _time(asked_at), read, tuple(intended))


def text_of(at: datetime | None) -> str | None:
    """Write a moment as users see it."""
    return iso(at) if at is not None else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None
