"""Who keeps the gates: gathers what gates need of git and of the rules, and asks them, pass after pass."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from reconciler.core import brake, gates, holds
from reconciler.core.brake import Brake
from reconciler.core.desired import PLAIN_FILE, Wanted, Withheld
from reconciler.core.entities import (
    PLATFORM,
    Commit,
    Damaged,
    Declared,
    Event,
    EventType,
    HoldKind,
    Observation,
    Record,
    RulesVersion,
    Tree,
)
from reconciler.core.gates import Gate, Pending
from reconciler.core.history import OVERRIDE_FREEZE, UNBORN
from reconciler.core.holds import NO_RULES, HoldRules
from reconciler.names import RULES_FILE
from reconciler.ports import Source
from reconciler.rules import MAX_BYTES, RulesRefused, parse

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """The rules that count. `rules` is None where no version of the file can be read: then nothing may change.

    `refused` says why the newest version does not count, and `commit` who brought that; `by` brought what does.
    """

    rules: HoldRules | None
    refused: RulesRefused | None = None
    commit: Commit | None = None
    by: Commit | None = None

    @property
    def trouble(self) -> str | None:
        """Say what is wrong with the newest version; None where nothing is."""
        if self.refused is None:
            return None
        where = f" line {self.refused.line}:" if self.refused.line else ""
        if self.rules is None:
            rest = "and no version before it can be read; no change counts until it is put right"
        else:
            rest = f"what counts is the version of {self.by.sha[:12]}" if self.by else "what counts is none before it"
        return f"{RULES_FILE}:{where} {self.refused.message}; {rest}"


@dataclass(frozen=True, slots=True)
class Passed:
    """What is wanted without what does not count now, and what is to be told of it."""

    wanted: dict[str, Wanted]
    events: tuple[Event, ...] = ()
    trouble: str | None = None


class Blobs(Protocol):
    """Where content is read."""

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Keep `ports.Source.blobs`."""
        ...


class Past(Protocol):
    """What commits say."""

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Keep `ports.Source.declared`."""
        ...


class RulesReader:
    """Reads `argus.yaml`. A version is parsed once: its outcome is remembered by its content."""

    def __init__(self, source: Blobs) -> None:
        """Read from `source`."""
        self._source = source
        self._parsed: dict[str, HoldRules | RulesRefused] = {}

    def read(self, tree: Tree) -> Standing:
        """Give the newest version that can be read. Raises SourceUnreachable."""
        broken: tuple[RulesRefused, Commit] | None = None
        here = {version.entry.blob for version in tree.rules if version.entry is not None}
        self._parsed = {blob: said for blob, said in self._parsed.items() if blob in here}
        for version in tree.rules:
            found = self._version(version)
            if isinstance(found, HoldRules):
                refused, commit = broken or (None, None)
                return Standing(found, refused, commit, by=version.commit)
            broken = broken or (found, version.commit)
        return Standing(None, *broken) if broken is not None else Standing(NO_RULES)

    def _version(self, version: RulesVersion) -> HoldRules | RulesRefused:
        entry = version.entry
        if entry is None:
            return NO_RULES
        if entry.mode != PLAIN_FILE:
            return RulesRefused(f"it has git mode {entry.mode}, and right would be a plain file (mode {PLAIN_FILE})")
        found = self._parsed.get(entry.blob)
        if found is None:
            content = self._source.blobs([entry.blob], MAX_BYTES)[entry.blob]
            if isinstance(content, Damaged):
                return RulesRefused(content.of(RULES_FILE))  # and looked at anew each time: it may be mended
            found = self._parsed[entry.blob] = parse(content)
        return found


class Gatekeeper:
    """Asks the gates about what is pending."""

    def __init__(self, source: Source, rule: Brake) -> None:
        """Read from `source` what the branch says of removals and of rules; `rule` is how much is too much."""
        self._source = source
        self._rule = rule
        self._reader = RulesReader(source)
        self._told: str | None = None

    def let_pass(  # noqa: PLR0917  the five things that a pass knows by now
        self,
        tree: Tree,
        wanted: Mapping[str, Wanted],
        records: Mapping[str, Record],
        seen: Observation,
        now: datetime,
        since: str | None = None,
    ) -> Passed:
        """Give what is wanted without what does not count now. `since` is the revision of the last pass.

        Raises SourceUnreachable.
        """
        standing = self._reader.read(tree)
        self._tell(standing.trouble)
        events = self._rejected(standing, now, since)
        missing = records.keys() - wanted.keys()
        removals = self._source.removals(missing) if missing else {}
        changes = gates.pending(wanted, records, removals, tree, seen.deployments)
        if not changes:
            return Passed(dict(wanted), events, standing.trouble)
        overridden: dict[str, Declared] = {}
        after, counting = gates.gated(
            wanted,
            changes,
            gates_of(self._source, self._rule, standing, records=records, now=now, overridden=overridden),
        )
        let = {key: declared for key, declared in overridden.items() if key in counting}
        return Passed(after, events + _overridden(changes, let, now), standing.trouble)

    def _rejected(self, standing: Standing, now: datetime, since: str | None) -> tuple[Event, ...]:
        """Tell of rules that cannot be read, in the pass that first reads them."""
        refused, commit = standing.refused, standing.commit
        if refused is None or commit is None or (since is not None and self._source.precedes(commit.sha, since)):
            return ()
        payload = {"path": RULES_FILE, "message": refused.message, "line": refused.line, "column": refused.column}
        return (_event(EventType.RULES_REJECTED, commit, now, payload),)

    def _tell(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._told:
            log.warning("%s", trouble)
        self._told = trouble


def gates_of(
    past: Past,
    rule: Brake,
    standing: Standing,
    *,
    records: Mapping[str, Record],
    now: datetime,
    overridden: dict[str, Declared] | None = None,
) -> tuple[Gate, ...]:
    """Give the gates in their order: what one holds back, those after it are not asked about.

    The brake comes last: it counts what would really happen. `overridden` is told of what passes in spite of a freeze.
    A commit that is yet to be made (`UNBORN`) has nothing after it.
    """
    rules, trouble = standing.rules, standing.trouble

    def since(commits: Collection[str]) -> tuple[Declared, ...]:
        return past.declared([sha for sha in commits if sha != UNBORN])

    def suspended(changes: Mapping[str, Pending]) -> dict[str, Withheld]:
        if rules is None:
            return dict.fromkeys(changes, Withheld(HoldKind.SUSPENDED, trouble or ""))
        return holds.suspended(rules, changes)

    def frozen(changes: Mapping[str, Pending]) -> dict[str, Withheld]:
        held, let = holds.frozen(rules or NO_RULES, changes, now, lambda sha: since([sha]))
        if overridden is not None:
            overridden.update(let)
        return held

    def braked(changes: Mapping[str, Pending]) -> dict[str, Withheld]:
        removals = {key: change for key, change in changes.items() if change.removes}
        declared = since({change.commit.sha for change in removals.values()})
        return brake.braked(rule, removals, records, declared) if removals else {}

    return suspended, frozen, braked


def _overridden(changes: Mapping[str, Pending], overridden: Mapping[str, Declared], now: datetime) -> tuple[Event, ...]:
    """Tell of each commit that let changes pass in a freeze, with the files that it did so for."""
    by_commit: dict[str, tuple[Declared, list[str]]] = {}
    for key, declared in overridden.items():
        by_commit.setdefault(declared.commit.sha, (declared, []))[1].append(changes[key].identity.path)
    return tuple(
        _event(
            EventType.FREEZE_OVERRIDDEN,
            declared.commit,
            now,
            {"reason": declared.trailers[OVERRIDE_FREEZE], "paths": sorted(paths)},
        )
        for declared, paths in by_commit.values()
    )


def _event(event_type: EventType, commit: Commit, now: datetime, payload: Mapping[str, object]) -> Event:
    return Event(event_type, PLATFORM, "", now, commit.sha, commit.author, commit.source, payload)
