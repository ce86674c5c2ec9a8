"""The spec repository as one pass sees it: files, what they say, and what happened to them since the last pass."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from reconciler.core import requests, rewrites, verdicts
from reconciler.core.desired import Said, is_read, refused_by_mode, understood
from reconciler.core.entities import (
    ChangeKind,
    Commit,
    Damaged,
    Event,
    FileChange,
    Record,
    SpecFile,
    Tree,
)
from reconciler.core.identity import Carried
from reconciler.core.ownership import Ruling
from reconciler.ports import LedgerState, Reading, Source
from reconciler.spec import Limits, ServingSpec, SpecRejected

log = logging.getLogger(__name__)

Address: TypeAlias = tuple[str, str, str, str]
"""What a file says depends on these alone: its mode, its content's id, its owner, its suffix."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The branch at its newest revision, and what commits did to spec files since the last pass, oldest first.

    `rewritten` are the events that tell of a history that does not continue the one that was known; `is_rewritten`
    also where nothing was known. `carried` are identities to be remembered, None for no news of them. `trouble` is why
    this is only the last revision that is known. `held`, `rulings` and `rules_held` are as in `ports.Reading`; changes
    that do not count are among `changes`.
    """

    tree: Tree
    changes: tuple[FileChange, ...]
    specs: Mapping[Address, Said]
    rewritten: tuple[Event, ...]
    is_rewritten: bool
    carried: Carried | None
    trouble: str | None
    held: tuple[FileChange, ...] = ()
    rulings: frozenset[Ruling] = frozenset()
    rules_held: str | None = None

    def parsed(self) -> dict[str, Said]:
        """Give what each file says, by model key."""
        return {key: self.specs[_address(file)] for key, file in self.tree.files.items()}

    def deletions(self) -> dict[str, Commit]:
        """Give the commits that removed a file, by model key."""
        return {each.identity.model_key: each.commit for each in self._counting() if each.kind is ChangeKind.DELETED}

    def requests(self, now: datetime) -> tuple[Event, ...]:
        """Give the events that tell what commits asked for."""
        return tuple(
            requests.request(each, self._says(each.before), self._says(each.after), now) for each in self._counting()
        )

    def asks(self, records: Mapping[str, Record]) -> tuple[verdicts.Ask, ...]:
        """Give what is to be judged: each change, and each file that a rewritten history holds by another commit."""
        changed = {each.identity.model_key for each in self._counting()}
        moved = [
            FileChange(ChangeKind.MODIFIED, file.identity, file.commit, None, file)
            for key, file in self.tree.files.items()
            if self.is_rewritten and key not in changed and key in records and records[key].commit != file.commit
        ]
        return tuple(
            verdicts.Ask(each, self._asks_for(each.after) if each.held is None else None)
            for each in (*self.changes, *moved)
        )

    def _counting(self) -> Iterator[FileChange]:
        return (each for each in self.changes if each.held is None)

    def _asks_for(self, file: SpecFile | None) -> Said | None:
        return (refused_by_mode(file) or self._says(file)) if file is not None else None

    def _says(self, file: SpecFile | None) -> Said | None:
        return self.specs[_address(file)] if file is not None else None


class BranchReader:
    """Reads the branch pass after pass. A file is parsed once: its outcome is remembered by its content's address.

    What is damaged is read anew at every pass, so that it counts as soon as it can be read.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        """Read from `source`; `limits` bound what a spec may ask for."""
        self._source = source
        self._limits = limits
        self._parsed: dict[Address, ServingSpec | SpecRejected] = {}
        self._stale = False
        self._damaged: frozenset[str] = frozenset()

    def read(self, known: LedgerState, now: datetime) -> Branch:
        """Read the newest revision, and compare it with what the ledger knows. Raises SourceUnreachable."""
        reading = self._source.read(known.revision, known.carried)
        self._tell(reading.trouble)
        counting, held = _apart(reading)
        tree, changes, carried = rewrites.settle(known.revision, known.records, known.carried, reading.tree, counting)
        return Branch(
            tree=tree,
            # In the branch's order where that is known.
            changes=reading.changes if reading.changes is not None and changes is counting else (*changes, *held),
            specs=self._specs(tree, changes),
            rewritten=rewrites.rewritten(known.revision, reading.tree, reading.changes, now),
            is_rewritten=reading.changes is None,
            carried=carried,
            trouble=reading.trouble,
            held=reading.held,
            rulings=reading.rulings,
            rules_held=reading.rules_held,
        )

    def _specs(self, tree: Tree, changes: tuple[FileChange, ...]) -> Mapping[Address, Said]:
        files = [*tree.files.values()]
        counting = (change for change in changes if change.held is None)
        files += [file for change in counting for file in (change.before, change.after) if file is not None]
        needed = {_address(file): file for file in files}
        new = {file.blob for address, file in needed.items() if address not in self._parsed and is_read(file)}
        content = self._source.blobs(new, self._limits.max_bytes) if new else {}
        said = {
            address: self._parsed.get(address) or understood(file, content, self._limits)
            for address, file in needed.items()
        }
        self._parsed = {address: each for address, each in said.items() if not isinstance(each, Damaged)}
        self._tell_damage(
            {each.of(needed[address].identity.path) for address, each in said.items() if isinstance(each, Damaged)}
        )
        return said

    def _tell_damage(self, damaged: Iterable[str]) -> None:
        """Log what cannot be read from now on, and that all can be read again."""
        now = frozenset(damaged)
        for each in sorted(now - self._damaged):
            log.warning("%s", each)
        if self._damaged and not now:
            log.info("every file of the spec repository can be read again")
        self._damaged = now

    def _tell(self, trouble: str | None) -> None:
        """Log where passes begin to go by what was last fetched, and where they end to."""
        if trouble is not None and not self._stale:
            log.warning("%s", trouble)
        elif trouble is None and self._stale:
            log.info("the spec repository answers again")
        self._stale = trouble is not None


def _apart(reading: Reading) -> tuple[tuple[FileChange, ...] | None, tuple[FileChange, ...]]:
    """Give the changes that count (None where only trees tell), and those that are held."""
    if reading.changes is None:
        return None, reading.held
    held = tuple(each for each in reading.changes if each.held is not None)
    counting = tuple(each for each in reading.changes if each.held is None) if held else reading.changes
    return counting, held


def _address(file: SpecFile) -> Address:
    return (file.mode, file.blob, file.identity.user_id, file.identity.suffix)
