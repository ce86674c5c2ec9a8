"""The mass-delete brake: what would stop too much at once waits until somebody says that it is meant.

Counted over what runs, or is on its way, when a pass begins. 6 models run and a commit removes 5: 5 >= 3 and
5 > 0.3 x 6, so all of them stay, until a commit on the branch that is not older than the first of the removals has the
trailer `Argus-Allow-Removal: 5`, or more. Of 3 models one may still remove 2: below `at_least` nothing is braked.

Where it matters whose commits count (`core.ownership`), that commit must be by somebody who may write every file whose
removal it is about: an admin, or an owner who removes only what is hers.
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
    """More than `share` (0 to 1) of the running models, and at least `at_least` of them, is too much at once.

    `asks_who` says that it matters who allows it: only then a hold has to say who may.
    """

    share: float = 0.3
    at_least: int = 3
    asks_who: bool = False

    def stops(self, removed: int, running: int) -> bool:
        """Say whether removing so many of so many running models is too much."""
        return removed >= self.at_least and removed > self.share * running


@dataclass(frozen=True, slots=True)
class Count:
    """What a pass would stop: so many of so many running models, and what commits allow.

    `owners` are the users whose models would go. `refused` is the newest commit that would allow it, and is by somebody
    who may not write all of them.
    """

    removed: int
    running: int
    allowed: int
    owners: frozenset[str] = frozenset()
    refused: Declared | None = None


def count(removals: Mapping[str, Pending], records: Mapping[str, Record], declared: Iterable[Declared]) -> Count:
    """Count. `declared` are the commits that may allow it: none older than the earliest removal."""
    running = sum(is_up(record) for record in records.values())
    removed = sum(is_up(change.record) for change in removals.values())
    owners = frozenset(change.identity.user_id for change in removals.values())
    allowed, refused = 0, None
    for each in declared:
        if each.speaks_for is None or owners <= each.speaks_for:
            allowed = max(allowed, _number(each))
        elif _number(each) >= removed:
            refused = each
    return Count(removed, running, allowed, owners, refused)


def braked(
    rule: Brake, removals: Mapping[str, Pending], records: Mapping[str, Record], declared: Iterable[Declared]
) -> dict[str, Withheld]:
    """Hold back every removal where together they are too much: those of models that do not run, too.

    A change that is taken back then leaves everybody who they were.
    """
    found = count(removals, records, declared)
    if not rule.stops(found.removed, found.running) or found.allowed >= found.removed:
        return {}
    return dict.fromkeys(removals, Withheld(HoldKind.BRAKE, message(found, asks_who=rule.asks_who)))


def message(found: Count, *, asks_who: bool = False) -> str:
    """Say what is braked, what would let it pass, and who has to say so where that matters."""
    said = f" ({found.allowed} are allowed)" if found.allowed else ""
    if found.refused is not None:
        commit = found.refused.commit
        said += f" (commit {commit.sha[:12]} by {commit.author} allows it, who may not write all of these files)"
    by = f" by {_who(found.owners)}" if asks_who else ""
    return (
        f"removes {found.removed} of {found.running} running models at once{said}; where that is meant, a commit{by} "
        f"with the trailer {ALLOW_REMOVAL}: {found.removed} lets it pass (argus allow-removal {found.removed})"
    )


def _who(owners: frozenset[str]) -> str:
    # Of several owners none is named: each of them reads this on a model of theirs.
    return f"{min(owners)} or an admin" if len(owners) == 1 else "an admin, or by somebody who may write all of them,"


def _number(declared: Declared) -> int:
    said = declared.trailers.get(ALLOW_REMOVAL, "")
    return int(said) if _NUMBER.match(said) else 0
