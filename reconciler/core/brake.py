"""The mass-delete brake: what would stop too much at once waits until somebody says that it is meant.

Counted over what runs, or is on its way, when a pass begins. 6 models run and a commit removes 5: 5 >= 3 and
5 > 0.3 x 6, so all of them stay, until a commit on the branch that is not older than the first of the removals has the
trailer `Argus-Allow-Removal: 5`, or more. Of 3 models one may still remove 2: below `at_least` nothing is braked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.core.desired import Withheld
from reconciler.core.entities import Declared, HoldKind, Record
from reconciler.core.gates import Pending, is_up
from reconciler.core.history import ALLOW_REMOVAL

_NUMBER = re.compile(r"[0-9]{1,6}\Z")


@dataclass(frozen=True, slots=True)
class Brake:
    """More than `share` (0 to 1) of the running models, and at least `at_least` of them, is too much at once."""

    share: float = 0.3
    at_least: int = 3

    def stops(self, removed: int, running: int) -> bool:
        """Say whether removing so many of so many running models is too much."""
        return removed >= self.at_least and removed > self.share * running


@dataclass(frozen=True, slots=True)
class Count:
    """What a pass would stop: so many of so many running models, and what commits allow."""

    removed: int
    running: int
    allowed: int


def count(removals: Mapping[str, Pending], records: Mapping[str, Record], declared: Iterable[Declared]) -> Count:
    """Count. `declared` are the commits that may allow it: none older than the earliest removal."""
    running = sum(is_up(record) for record in records.values())
    removed = sum(is_up(change.record) for change in removals.values())
    said = (each.trailers.get(ALLOW_REMOVAL, "") for each in declared)
    return Count(removed, running, max((int(number) for number in said if _NUMBER.match(number)), default=0))


def braked(
    rule: Brake, removals: Mapping[str, Pending], records: Mapping[str, Record], declared: Iterable[Declared]
) -> dict[str, Withheld]:
    """Hold back every removal where together they are too much: those of models that do not run, too.

    A change that is taken back then leaves everybody who they were.
    """
    found = count(removals, records, declared)
    if not rule.stops(found.removed, found.running) or found.allowed >= found.removed:
        return {}
    return dict.fromkeys(removals, Withheld(HoldKind.BRAKE, message(found)))


def message(found: Count) -> str:
    """Say what is braked and what would let it pass."""
    said = f" ({found.allowed} are allowed)" if found.allowed else ""
    return (
        f"removes {found.removed} of {found.running} running models at once{said}; where that is meant, a commit with "
        f"the trailer {ALLOW_REMOVAL}: {found.removed} lets it pass (argus allow-removal {found.removed})"
    )
