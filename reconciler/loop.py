"""One pass of the loop: the only place where the order of effects is written.

Level-triggered: a pass from any state gives the same plan, so whatever was interrupted is finished by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from reconciler.chronicle import Chronicle, NoNotes
from reconciler.core import progress, requests, rewrites, room, routing, verdicts
from reconciler.core.arrivals import arrivals, held_back
from reconciler.core.cases import CaseId
from reconciler.core.desired import desired, is_read, refused_by_mode, understood
from reconciler.core.entities import (
    ChangeKind,
    Commit,
    Event,
    FileChange,
    Observation,
    Record,
    SpecFile,
    Tree,
)
from reconciler.core.plan import differs, plan
from reconciler.locating import locate
from reconciler.ports import Advance, Front, Ledger, ModelFolders, Notes, PlatformStatus, Road, Runtime, Source
from reconciler.spec import Limits, ServingSpec, SpecRejected, UpdateStrategy

log = logging.getLogger(__name__)

Address: TypeAlias = tuple[str, str, str, str]
"""What a file says depends on these alone: its mode, its content's id, its owner, its suffix."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration decides: bounds of specs, the table of delays, what goes into every engine, updates."""

    limits: Limits
    retry_delays_s: tuple[float, ...]
    platform: str
    update_strategy: UpdateStrategy = "auto"


def _may_always() -> None:
    """Confirm nothing: there is no other reconciler."""


@dataclass(slots=True)
class Reconciler:
    """The loop's collaborators. `clock` gives the time as a timezone-aware UTC datetime.

    `confirm` makes sure that this reconciler may act; it raises NotLeader, or LedgerUnreachable where that is unknown.
    Without a `road` Serve's word counts: a replica that runs has answered a request of its own.
    """

    source: Source
    folders: ModelFolders
    runtime: Runtime
    front: Front
    ledger: Ledger
    rules: Rules
    clock: Callable[[], datetime]
    confirm: Callable[[], None] = _may_always
    road: Road | None = None
    notes: Notes = field(default_factory=NoNotes)
    _chronicle: Chronicle = field(init=False)
    _others_gpus: float | None = None
    _stale: bool = False
    _parsed: dict[Address, ServingSpec | SpecRejected] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the way to the notes."""
        self._chronicle = Chronicle(self.notes, self.ledger)

    def reconcile_once(self) -> progress.Progress:
        """Bring what runs one step closer to what the repository wants, write down what happened, and give it.

        Raises Unreachable before anything is planned where git, Serve or the ledger do not answer, Moved where the
        ledger was written meanwhile, and NotLeader where another reconciler has taken over; the next pass starts from
        what is then true.
        """
        now = self.clock()
        known = self.ledger.load()
        reading = self.source.read(known.revision, known.carried)
        tree, changes, carried = rewrites.settle(
            known.revision, known.records, known.carried, reading.tree, reading.changes
        )
        self._tell(reading.trouble)
        specs = self._specs(tree, changes)
        past = self._chronicle.restored(self.source.history()) if known.revision is None else ()
        seen = self._reached(known.records, self.runtime.observe())

        have = progress.observed(known.records, seen, now, self.rules.retry_delays_s)
        want = desired(tree, _by_key(tree, specs), have.records)
        records = progress.committed(have.records, want, _deletions(changes), now)
        self._others_gpus = room.others(seen.cluster, records.values(), self._others_gpus)
        load_times = known.load_times.after(have.loads)
        decided = plan(
            wanted=want,
            folders=locate(self.folders, want, records, now, self.rules.platform),
            records=records,
            cluster=seen.cluster,
            now=now,
            platform=self.rules.platform,
            update_strategy=self.rules.update_strategy,
            others_gpus=self._others_gpus,
            deployments=seen.deployments,
            load_times=load_times,
        )
        outcome = progress.decided(records, decided, now, self.rules.retry_delays_s)
        # Before anything is taken from Serve: a removed model's name is unknown while its last answers still end.
        self.front.show(routing.names(outcome.records.values(), now))
        if differs(decided.app, seen):
            self.confirm()
            self.runtime.apply(decided.app)

        asked = tuple(_request(change, specs, now) for change in changes)
        rewritten = rewrites.rewritten(known.revision, reading.tree, reading.changes, now)
        events = rewritten + asked + have.events + outcome.events
        cases = verdicts.judged(
            known.cases,
            verdicts.Seen(_asks(changes, specs), want, tree.revision, rewritten=reading.changes is None),
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
                revision=tree.revision,
                records=progress.stamped(known.records, outcome.records, now),
                events=events,
                load_times=load_times if have.loads else None,
                users=tree.users,
                status=_status(seen, tree.revision, now, reading.trouble, self._chronicle.error),
                carried=carried,
                cases=cases,
                restored=past,
            ),
        )
        self._chronicle.publish(now)
        for event in events:
            log.info("%s %s at %s by %s", event.event_type, event.model_key, event.commit[:12], event.author)
        return progress.Progress(outcome.records, events)

    def look(self) -> None:
        """Read what a pass would, and change nothing: whoever waits for the lease stays connected and warm.

        Raises Unreachable.
        """
        self.source.read(self.ledger.load().revision)
        self.runtime.observe()

    def _reached(self, records: Mapping[str, Record], seen: Observation) -> Observation:
        """Hold back the models that this pass would call RUNNING and that no user reaches yet."""
        if self.road is None:
            return seen
        coming = arrivals(records, seen)
        return held_back(seen, {one.model_key for one in coming} - set(self.road.reached(coming)))

    def report_trouble(self, error: Exception) -> None:
        """Write down that a pass could not be made, for status pages. Raises LedgerUnreachable, Moved, NotLeader."""
        known = self.ledger.load()
        status = PlatformStatus(self.clock(), known.revision, None, "", 0, 0, str(error), self._chronicle.error)
        self.ledger.record(known.base, Advance(revision=known.revision, status=status))

    def _tell(self, trouble: str | None) -> None:
        """Log where passes begin to go by what was last fetched, and where they end to."""
        if trouble is not None and not self._stale:
            log.warning("%s", trouble)
        elif trouble is None and self._stale:
            log.info("the spec repository answers again")
        self._stale = trouble is not None

    def _on_record(self, changes: tuple[FileChange, ...]) -> frozenset[CaseId]:
        return self.ledger.on_record({change.commit.sha for change in changes}) if changes else frozenset()

    def _specs(self, tree: Tree, changes: tuple[FileChange, ...]) -> Mapping[Address, ServingSpec | SpecRejected]:
        """Parse what this pass needs. A file is parsed once: its outcome is remembered by its content's address."""
        files = [*tree.files.values()]
        files += [file for change in changes for file in (change.before, change.after) if file is not None]
        needed = {_address(file): file for file in files}
        new = {file.blob for address, file in needed.items() if address not in self._parsed and is_read(file)}
        content = self.source.blobs(new, self.rules.limits.max_bytes) if new else {}
        self._parsed = {
            address: self._parsed.get(address) or understood(file, content, self.rules.limits)
            for address, file in needed.items()
        }
        return self._parsed


def _status(
    seen: Observation, revision: str | None, now: datetime, trouble: str | None, notes_error: str | None
) -> PlatformStatus:
    return PlatformStatus(
        seen_at=now,
        revision=revision,
        app_status=seen.app_status,
        app_message=seen.app_message,
        total_gpus=seen.cluster.total_gpus,
        free_gpus=seen.cluster.free_gpus,
        error=trouble,
        notes_error=notes_error,
    )


def _address(file: SpecFile) -> Address:
    return (file.mode, file.blob, file.identity.user_id, file.identity.suffix)


def _by_key(tree: Tree, specs: Mapping[Address, ServingSpec | SpecRejected]) -> dict[str, ServingSpec | SpecRejected]:
    return {key: specs[_address(file)] for key, file in tree.files.items()}


def _deletions(changes: tuple[FileChange, ...]) -> dict[str, Commit]:
    return {change.identity.model_key: change.commit for change in changes if change.kind is ChangeKind.DELETED}


def _asks(
    changes: tuple[FileChange, ...], specs: Mapping[Address, ServingSpec | SpecRejected]
) -> tuple[verdicts.Ask, ...]:
    return tuple(
        verdicts.Ask(change, (refused_by_mode(change.after) or specs[_address(change.after)]) if change.after else None)
        for change in changes
    )


def _request(change: FileChange, specs: Mapping[Address, ServingSpec | SpecRejected], now: datetime) -> Event:
    before = specs[_address(change.before)] if change.before else None
    after = specs[_address(change.after)] if change.after else None
    return requests.request(change, before, after, now)
