"""One pass of the loop: the only place where the order of effects is written.

Level-triggered: a pass from any state gives the same plan, so whatever was interrupted is finished by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from reconciler.chronicle import Chronicle, NoNotes
from reconciler.core import progress, requests, routing, verdicts
from reconciler.core.cases import CaseId
from reconciler.core.desired import Wanted, desired, must_be_located, pinned, refused_by_mode, source
from reconciler.core.entities import (
    ChangeKind,
    Commit,
    Event,
    FileChange,
    Located,
    Observation,
    Record,
    SpecFile,
    Tree,
    Unusable,
)
from reconciler.core.plan import differs, plan
from reconciler.ports import Advance, Front, Ledger, ModelFolders, Notes, PlatformStatus, Runtime, Source
from reconciler.spec import Limits, ServingSpec, SpecRejected, parse

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration decides: bounds of specs, the table of delays, what goes into every engine."""

    limits: Limits
    retry_delays_s: tuple[float, ...]
    platform: str


@dataclass(slots=True)
class Reconciler:
    """The loop's collaborators. `clock` gives the time as a timezone-aware UTC datetime."""

    source: Source
    folders: ModelFolders
    runtime: Runtime
    front: Front
    ledger: Ledger
    rules: Rules
    clock: Callable[[], datetime]
    notes: Notes = field(default_factory=NoNotes)
    _chronicle: Chronicle = field(init=False)
    _parsed: dict[tuple[str, str, str], ServingSpec | SpecRejected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the way to the notes."""
        self._chronicle = Chronicle(self.notes, self.ledger)

    def reconcile_once(self) -> progress.Progress:
        """Bring what runs one step closer to what the repository wants, write down what happened, and give it.

        Raises Unreachable before anything is planned where git, Serve or the ledger do not answer, and Moved where
        another reconciler was faster; the next pass starts from what is then true.
        """
        now = self.clock()
        known = self.ledger.load()
        reading = self.source.read(known.revision)
        changes = reading.changes if reading.changes is not None else requests.between(known.records, reading.tree)
        specs = self._specs(reading.tree, changes)
        past = self._chronicle.restored(self.source.history()) if known.revision is None else ()
        seen = self.runtime.observe()

        have = progress.observed(known.records, seen, now, self.rules.retry_delays_s)
        want = desired(reading.tree, _by_key(reading.tree, specs), have.records)
        records = progress.committed(have.records, want, _deletions(changes))
        decided = plan(
            wanted=want,
            folders=self._locate(want, records, now),
            records=records,
            cluster=seen.cluster,
            now=now,
            platform=self.rules.platform,
        )
        outcome = progress.decided(records, decided, now, self.rules.retry_delays_s)
        # Before anything is taken from Serve: a removed model's name is unknown while its last answers still end.
        self.front.show(routing.names(outcome.records.values()))
        if differs(decided.app, seen):
            self.runtime.apply(decided.app)

        asked = tuple(_request(change, specs, now) for change in changes)
        events = asked + have.events + outcome.events
        cases = verdicts.judged(
            known.cases,
            verdicts.Seen(_asks(changes, specs), want, reading.tree.revision, rewritten=reading.changes is None),
            on_record=self._on_record(changes) | {case.id for case in past},
            before=known.records,
            actions=decided.actions,
            records=outcome.records,
            now=now,
            applied_at=self.clock(),
        )
        self.ledger.record(
            known.base,
            Advance(
                revision=reading.tree.revision,
                records=progress.stamped(known.records, outcome.records, now),
                events=events,
                cases=cases,
                restored=past,
                users=reading.tree.users,
                status=_status(seen, reading.tree.revision, now, self._chronicle.error),
            ),
        )
        self._chronicle.publish(now)
        for event in events:
            log.info("%s %s at %s by %s", event.event_type, event.model_key, event.commit[:12], event.author)
        return progress.Progress(outcome.records, events)

    def report_trouble(self, error: Exception) -> None:
        """Write down that a pass could not be made, for status pages. Raises LedgerUnreachable."""
        known = self.ledger.load()
        status = PlatformStatus(self.clock(), known.revision, None, "", 0, 0, str(error), self._chronicle.error)
        self.ledger.record(known.base, Advance(revision=known.revision, status=status))

    def _on_record(self, changes: tuple[FileChange, ...]) -> frozenset[CaseId]:
        return self.ledger.on_record({change.commit.sha for change in changes}) if changes else frozenset()

    def _specs(
        self, tree: Tree, changes: tuple[FileChange, ...]
    ) -> Mapping[tuple[str, str, str], ServingSpec | SpecRejected]:
        """Parse what this pass needs. A file is parsed once: its outcome is remembered by its content's address."""
        files = [*tree.files.values()]
        files += [file for change in changes for file in (change.before, change.after) if file is not None]
        needed = {_address(file): file for file in files}
        new = {file.blob for address, file in needed.items() if address not in self._parsed}
        content = self.source.blobs(new, self.rules.limits.max_bytes) if new else {}
        self._parsed = {
            address: self._parsed.get(address) or self._parse(file, content[file.blob])
            for address, file in needed.items()
        }
        return self._parsed

    def _parse(self, file: SpecFile, content: bytes) -> ServingSpec | SpecRejected:
        identity = file.identity
        return parse(content, owner=identity.user_id, limits=self.rules.limits, suffix=identity.suffix)

    def _locate(
        self, want: Mapping[str, Wanted], records: Mapping[str, Record], now: datetime
    ) -> dict[str, Located | Unusable]:
        platform = self.rules.platform
        folders: dict[str, Located | Unusable] = {}
        for key, wanted in want.items():
            record = records.get(key)
            bound = pinned(wanted, record, platform)
            if bound is not None:
                folders[key] = bound
            elif must_be_located(wanted, record, now, platform):
                place = source(wanted)
                owner = wanted.file.identity.user_id
                folders[key] = place if isinstance(place, Unusable) else self.folders.locate(place, owner)
        return folders


def _status(seen: Observation, revision: str | None, now: datetime, notes_error: str | None) -> PlatformStatus:
    return PlatformStatus(
        seen_at=now,
        revision=revision,
        app_status=seen.app_status,
        app_message=seen.app_message,
        total_gpus=seen.cluster.total_gpus,
        free_gpus=seen.cluster.free_gpus,
        error=None,
        notes_error=notes_error,
    )


def _address(file: SpecFile) -> tuple[str, str, str]:
    return (file.blob, file.identity.user_id, file.identity.suffix)


def _by_key(
    tree: Tree, specs: Mapping[tuple[str, str, str], ServingSpec | SpecRejected]
) -> dict[str, ServingSpec | SpecRejected]:
    return {key: specs[_address(file)] for key, file in tree.files.items()}


def _deletions(changes: tuple[FileChange, ...]) -> dict[str, Commit]:
    return {change.identity.model_key: change.commit for change in changes if change.kind is ChangeKind.DELETED}


def _asks(
    changes: tuple[FileChange, ...], specs: Mapping[tuple[str, str, str], ServingSpec | SpecRejected]
) -> tuple[verdicts.Ask, ...]:
    return tuple(
        verdicts.Ask(change, (refused_by_mode(change.after) or specs[_address(change.after)]) if change.after else None)
        for change in changes
    )


def _request(
    change: FileChange, specs: Mapping[tuple[str, str, str], ServingSpec | SpecRejected], now: datetime
) -> Event:
    before = specs[_address(change.before)] if change.before else None
    after = specs[_address(change.after)] if change.after else None
    return requests.request(change, before, after, now)
