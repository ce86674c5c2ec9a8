"""One pass of the loop: the only place where the order of effects is written.

Level-triggered: a pass from any state gives the same plan, so whatever was interrupted is finished by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.branch import Branch, BranchReader
from reconciler.chronicle import Chronicle, NoNotes
from reconciler.core import drift, gates, ownership, progress, room, routing, verdicts
from reconciler.core.arrivals import arrivals, held_back
from reconciler.core.brake import Brake
from reconciler.core.cases import Case
from reconciler.core.desired import Wanted, desired
from reconciler.core.entities import Observation, Record
from reconciler.core.estimates import LoadTimes
from reconciler.core.plan import Plan, plan
from reconciler.gatekeeper import Gatekeeper
from reconciler.locating import locate
from reconciler.ports import (
    Advance,
    Front,
    Ledger,
    LedgerState,
    ModelFolders,
    Notes,
    PlatformStatus,
    Road,
    Runtime,
    Source,
)
from reconciler.recognising import recognise
from reconciler.spec import Limits, UpdateStrategy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration decides: bounds of specs, the table of delays, what goes into every engine, updates."""

    limits: Limits
    retry_delays_s: tuple[float, ...]
    platform: str
    update_strategy: UpdateStrategy = "auto"
    brake: Brake = field(default_factory=Brake)


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
    _reader: BranchReader = field(init=False)
    _chronicle: Chronicle = field(init=False)
    _gatekeeper: Gatekeeper = field(init=False)
    _others_gpus: float | None = None

    def __post_init__(self) -> None:
        """Keep the ways to the branch and to the notes."""
        self._reader = BranchReader(self.source, self.rules.limits)
        self._chronicle = Chronicle(self.notes, self.ledger)
        self._gatekeeper = Gatekeeper(self.source, self.rules.brake)

    def reconcile_once(self) -> progress.Progress:
        """Bring what runs one step closer to what the repository wants, write down what happened, and give it.

        Raises Unreachable before anything is planned where git, Serve or the ledger do not answer, Moved where the
        ledger was written meanwhile, and NotLeader where another reconciler has taken over; the next pass starts from
        what is then true.
        """
        now, delays_s = self.clock(), self.rules.retry_delays_s
        last = self.ledger.load()
        known = replace(last, records=ownership.unmarked(last.records))
        branch = self._reader.read(known, now)
        seen = self._reached(known.records, self.runtime.observe())

        have = progress.observed(known.records, seen, now, delays_s)
        past: tuple[Case, ...] = ()
        if known.revision is None:
            begun = recognise(branch, seen, self.source, self.folders, self.rules.limits, self.rules.platform, now)
            branch, past = begun.branch, self._chronicle.restored(begun.history)
            have = replace(have, records={**begun.records, **have.records})
        asked = desired(branch.tree, branch.parsed(), have.records)
        passed = self._gatekeeper.let_pass(branch.tree, asked, have.records, seen, now, known.revision)
        want = passed.wanted
        records = progress.committed(have.records, want, branch.deletions(), now)
        load_times = known.load_times.after(have.loads)
        decided = self._decide(want, records, seen, load_times, now)
        outcome = progress.decided(records, decided, now, delays_s)
        course = drift.course(
            planned=decided.app,
            before=known.records,
            records=outcome.records,
            seen=seen,
            upkeep=known.upkeep,
            revision=branch.tree.revision,
            now=now,
        )
        outcome = replace(outcome, records=drift.marked(outcome.records, course.left))
        base = self._intend(known, course)
        self._act(course, outcome, now)

        told = ownership.marked(outcome.records, branch.held, last.records, now)
        holds = gates.events(last.records, told, now)
        events = branch.rewritten + branch.requests(now) + passed.events + holds
        events += have.events + course.events + outcome.events
        self.ledger.record(
            base,
            Advance(
                revision=branch.tree.revision,
                records=progress.stamped(last.records, told, now),
                events=events,
                users=branch.tree.users,
                status=replace(
                    _status(seen, branch, now, self._chronicle.error, passed.trouble or branch.rules_held),
                    drift=drift.told(course.left),
                ),
                load_times=load_times if have.loads else None,
                carried=branch.carried,
                cases=self._judge(known, branch, want=want, decided=decided, outcome=outcome, past=past, now=now),
                restored=past,
                rulings=branch.rulings if branch.rulings != known.rulings else None,
                upkeep=course.upkeep if course.upkeep != (course.intent or known.upkeep) else None,
            ),
        )
        self._chronicle.publish(now)
        for event in events:
            log.info("%s %s at %s by %s", event.event_type, event.model_key, event.commit[:12], event.author)
        return progress.Progress(told, events)

    def look(self) -> None:
        """Read what a pass would, and change nothing: whoever waits for the lease stays connected and warm.

        Raises Unreachable.
        """
        known = self.ledger.load()
        self.source.read(known.revision, known.carried)  # with the identities of a pass, or history is folded anew
        self.runtime.observe()

    def report_trouble(self, error: Exception) -> None:
        """Write down that a pass could not be made, for status pages. Raises LedgerUnreachable, Moved, NotLeader."""
        known = self.ledger.load()
        status = PlatformStatus(self.clock(), known.revision, None, "", 0, 0, str(error), self._chronicle.error)
        self.ledger.record(known.base, Advance(revision=known.revision, status=status))

    def _reached(self, records: Mapping[str, Record], seen: Observation) -> Observation:
        """Hold back the models that this pass would call RUNNING and that no user reaches yet."""
        if self.road is None:
            return seen
        coming = arrivals(records, seen)
        return held_back(seen, {one.model_key for one in coming} - set(self.road.reached(coming)))

    def _decide(
        self,
        want: Mapping[str, Wanted],
        records: Mapping[str, Record],
        seen: Observation,
        load_times: LoadTimes,
        now: datetime,
    ) -> Plan:
        self._others_gpus = room.others(seen.cluster, records.values(), self._others_gpus)
        return plan(
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

    def _intend(self, known: LedgerState, course: drift.Course) -> int:
        """Write down what is about to be put right, in the rare pass that does. Gives the ledger's base."""
        if course.intent is None:
            return known.base
        return self.ledger.record(known.base, Advance(revision=known.revision, upkeep=course.intent))

    def _act(self, course: drift.Course, outcome: progress.Progress, now: datetime) -> None:
        # Before anything is taken from Serve: a removed model's name is unknown while its last answers still end.
        self.front.show(routing.names(outcome.records.values(), now))
        if course.is_due:
            self.confirm()
            self.runtime.apply(course.app)

    def _judge(
        self,
        known: LedgerState,
        branch: Branch,
        *,
        want: Mapping[str, Wanted],
        decided: Plan,
        outcome: progress.Progress,
        past: tuple[Case, ...],
        now: datetime,
    ) -> tuple[Case, ...]:
        asks = branch.asks(known.records)
        commits = {ask.change.commit.sha for ask in asks}
        on_record = self.ledger.on_record(commits) if commits else frozenset()
        return verdicts.judged(
            known.cases,
            verdicts.Seen(asks, want, branch.tree.revision, rewritten=branch.is_rewritten),
            on_record=on_record | {case.id for case in past},
            before=known.records,
            actions=decided.actions,
            records=outcome.records,
            now=now,
            applied_at=self.clock(),
        )


def _status(
    seen: Observation, branch: Branch, now: datetime, notes_error: str | None, rules_error: str | None
) -> PlatformStatus:
    return PlatformStatus(
        seen_at=now,
        revision=branch.tree.revision,
        app_status=seen.app_status,
        app_message=seen.app_message,
        total_gpus=seen.cluster.total_gpus,
        free_gpus=seen.cluster.free_gpus,
        error=branch.trouble,
        notes_error=notes_error,
        rules_error=rules_error,
    )
