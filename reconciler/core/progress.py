"""What happened: records and events from what was observed, wanted and started.

Three steps of one pass, each a pure function from records to records. Events are differences: a record that does not
change speaks of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never

from reconciler.core.desired import Wanted, Withheld
from reconciler.core.entities import (
    Commit,
    Deployment,
    Event,
    EventType,
    Failure,
    Health,
    Held,
    Observation,
    Record,
    State,
    Workload,
)
from reconciler.core.estimates import Load, measured
from reconciler.core.model_events import event_of
from reconciler.core.plan import Action, Hold, Idle, Keep, Plan, Refuse, Remove, Scale, Settle, Start, Wait
from reconciler.core.retry import next_failure
from reconciler.core.room import is_changing
from reconciler.core.root_cause import told
from reconciler.core.times import iso
from reconciler.spec import ServingSpec, SpecRejected

LONGEST_SUMMARY = 2000


@dataclass(frozen=True, slots=True)
class Progress:
    """Records brought up to date, by model key, and what happened on the way, in order; also loads that ended well."""

    records: Mapping[str, Record]
    events: tuple[Event, ...]
    loads: tuple[Load, ...] = ()


def observed(records: Mapping[str, Record], seen: Observation, now: datetime, delays_s: Sequence[float]) -> Progress:
    """Bring records up to date with what Serve says.

    Only a deployment at the version that was applied tells anything about that version: a report on another is from
    before the last apply.
    """
    after: dict[str, Record] = {}
    events: list[Event] = []
    loads: list[Load] = []
    for key, record in records.items():
        deployment = seen.deployments.get(key)
        updated, event = _observe(record, deployment, now, delays_s)
        after[key] = updated if updated.deployment == deployment else replace(updated, deployment=deployment)
        events += [event] if event else []
        if event is not None and event.event_type is EventType.DEPLOY_SUCCEEDED and (load := _load(record, now)):
            loads.append(load)
    return Progress(after, tuple(events), tuple(loads))


def committed(
    records: Mapping[str, Record],
    wanted: Mapping[str, Wanted],
    deletions: Mapping[str, Commit],
    now: datetime | None = None,
) -> dict[str, Record]:
    """Bring records up to date with the repository: new files, newer commits, files that are gone.

    `deletions` holds the commits that removed a file, by model key. `updated_at` is the commits' time; `now` is when
    what is new was seen (None: unknown, and the commits' time counts).
    """
    after = dict(records)
    for key, want in wanted.items():
        record = records.get(key)
        if isinstance(want.spec, Withheld) and want.newer is not None:
            after[key] = _withhold(record, want, want.spec, want.newer, now)
        elif record is None or record.commit.sha != want.file.commit.sha or record.held is not None:
            after[key] = _commit(record, want, now)
    for key, record in records.items():
        if key not in wanted:
            known = record.held.commit if record.held is not None and record.held.removes else record.commit
            after[key] = replace(record, commit=deletions.get(key, known), held=None)
    return after


def decided(records: Mapping[str, Record], plan: Plan, now: datetime, delays_s: Sequence[float]) -> Progress:
    """Bring records up to date with a plan that has been applied."""
    after: dict[str, Record] = {}
    events: list[Event] = []
    for key, action in plan.actions.items():
        record, event = _decide(records[key], action, now, delays_s)
        after[key] = record
        events += [event] if event else []
    return Progress(after, tuple(events))


def stamped(before: Mapping[str, Record], after: Mapping[str, Record], now: datetime) -> list[Record]:
    """Give the records that differ, each with `updated_at` set where what users see of it has changed."""
    changed = []
    for key, record in after.items():
        old = before.get(key)
        if old is None or (_visible(old) != _visible(record)):
            changed.append(replace(record, updated_at=now))
        elif old != record:
            changed.append(record)
    return changed


def _observe(
    record: Record, seen: Deployment | None, now: datetime, delays_s: Sequence[float]
) -> tuple[Record, Event | None]:
    applied, commit = record.applied, record.applied_commit
    if applied is None or commit is None or record.state in {State.DELETING, State.DELETED}:
        return record, None
    if seen is None or seen.version != applied.version:
        what = "the model" if seen is None or seen.version is None else "the version that was asked of it"
        return _lost(record, f"Serve does not hold {what}; it is being started again", now)
    if seen.health is Health.FAILED:
        message = told(seen.message)[:LONGEST_SUMMARY] or "the engine did not start; Serve gives no reason"
        failure = next_failure(record.failure, applied.version, message, now, delays_s)
        return _failed(record, applied, commit, failure, now)
    if seen.health is Health.HEALTHY and seen.running >= applied.num_replicas:
        return _answers(record, applied, commit, now)
    if seen.running == 0:
        return _lost(record, seen.message or "no replica is running", now)
    return record, None


def _answers(record: Record, applied: Workload, commit: Commit, now: datetime) -> tuple[Record, Event | None]:
    before = record.serving
    failure = None if record.failure and record.failure.version == applied.version else record.failure
    up = replace(
        record,
        state=State.RUNNING,
        serving=applied,
        serving_commit=commit,
        failure=failure,
        since=record.since if record.state is State.RUNNING else None,
    )
    up = replace(up, error_summary=_still_wrong(up))
    if record.state is State.RUNNING and before == applied:
        return up, None
    took_over = before is None or before.version != applied.version
    if took_over:
        load = _load(record, now)
        took = {"load_s": load.seconds} if load else {}
        return up, event_of(record, EventType.DEPLOY_SUCCEEDED, commit, now, replicas=applied.num_replicas, **took)
    if before is not None and before.num_replicas != applied.num_replicas:
        sizes = {"from": before.num_replicas, "to": applied.num_replicas}
        return up, event_of(record, EventType.SCALE_SUCCEEDED, commit, now, num_replicas=sizes)
    return up, event_of(record, EventType.RECOVERED, commit, now, replicas=applied.num_replicas)


def _failed(
    record: Record, applied: Workload, commit: Commit, failure: Failure, now: datetime
) -> tuple[Record, Event | None]:
    # The version that answered last may be the very one that fails now: then there is nothing to fall back on.
    refuge = None if record.serving and record.serving.version == applied.version else record.serving
    if refuge is not None and not applied.surge:
        failure = replace(failure, recreated_for=commit.sha)
    down = replace(
        record,
        state=State.FAILED,
        failure=failure,
        error_summary=failure.message,
        serving=refuge,
        applied=None,
        since=None,
    )
    return down, event_of(record, EventType.DEPLOY_FAILED, commit, now, **_attempt(failure))


def _lost(record: Record, reason: str, now: datetime) -> tuple[Record, Event | None]:
    if record.state is not State.RUNNING or record.serving != record.applied or record.applied_commit is None:
        return record, None
    down = replace(record, state=State.DEPLOYING, error_summary=reason, since=now)
    return down, event_of(record, EventType.REPLICAS_LOST, record.applied_commit, now, reason=reason)


def _load(record: Record, now: datetime) -> Load | None:
    """Give the load that ends now with a first answer, where its time says something about the next one.

    Where an old version had to go first, its last streams took part of the time; where several replicas were replaced,
    perhaps one after the other, it is no load of one.
    """
    loaded = record.applied
    if loaded is None or record.since is None or not loaded.surge:
        return None
    if record.serving is not None and loaded.num_replicas > 1:
        return None
    return measured(loaded, record.since, now)


def _commit(record: Record | None, want: Wanted, now: datetime | None) -> Record:
    file = want.file
    rejection = want.spec if isinstance(want.spec, SpecRejected) else None
    accepted = want.spec if isinstance(want.spec, ServingSpec) else None
    if record is None:
        return Record(
            identity=file.identity,
            blob=file.blob,
            commit=file.commit,
            state=State.FAILED if rejection else State.QUEUED,
            updated_at=file.commit.committed_at,
            spec=accepted,
            rejection=rejection,
            error_summary=rejection.message if rejection else None,
            asked_at=now,
        )
    # Who waits and asks for no more than before keeps the place in line: a mistake may be put right meanwhile.
    stays = record.waiting is not None and record.spec is not None and accepted is not None
    stays = stays and _gpus(accepted) <= _gpus(record.spec)
    return replace(
        record,
        blob=file.blob,
        commit=file.commit,
        spec=accepted or record.spec,
        rejection=rejection,
        error_summary=rejection.message if rejection else record.error_summary,
        asked_at=record.asked_at if stays or accepted is None else now,
        held=None,
    )


def _withhold(record: Record | None, want: Wanted, why: Withheld, newer: Commit, now: datetime | None) -> Record:
    """Keep a model as it was accepted. One of which nothing ever was is known by the file that waits."""
    file, had = want.file, record.held if record is not None else None
    since = now or newer.committed_at
    if had is not None and (had.kind, had.commit.sha) == (why.kind, newer.sha):
        since = had.since
    held = Held(why.kind, why.message, since, newer, removes=want.is_gone)
    if record is None:
        return Record(file.identity, file.blob, file.commit, State.QUEUED, newer.committed_at, held=held)
    # What was refused is not what the file says any more.
    summary = None if record.rejection is not None else record.error_summary
    return replace(record, blob=file.blob, commit=file.commit, rejection=None, held=held, error_summary=summary)


def _gpus(spec: ServingSpec | None) -> int:
    return spec.num_replicas * spec.gpus_per_replica if spec is not None else 0


def _decide(record: Record, action: Action, now: datetime, delays_s: Sequence[float]) -> tuple[Record, Event | None]:  # noqa: PLR0911  one return a case
    match action:
        case Keep(workload, commit):
            return _keep(record, workload, commit), None
        case Start():
            return _start(record, action, now)
        case Scale(workload, commit):
            before = record.applied.num_replicas if record.applied else 0
            sizes = {"from": before, "to": workload.num_replicas}
            return _scale(record, workload, commit, now), event_of(
                record, EventType.SCALE_STARTED, commit, now, num_replicas=sizes
            )
        case Settle(workload):
            return _settle(record, workload, now)
        case Refuse(workload, version, commit, reason):
            failure = next_failure(record.failure, version, reason, now, delays_s)
            refused = replace(_going_on(record, workload), failure=failure, error_summary=reason, waiting=None)
            return refused, event_of(record, EventType.DEPLOY_FAILED, commit, now, **_attempt(failure))
        case Wait():
            return _wait(record, action, now), None
        case Hold():
            return _hold(record, action, now)
        case Idle():
            return replace(record, state=State.FAILED if record.held is None else State.QUEUED), None
        case Remove():
            return _remove(record, now)
        case _:
            assert_never(action)


def _keep(record: Record, workload: Workload, commit: Commit) -> Record:
    if (record.rejection is not None or record.held is not None) and record.applied_commit is not None:
        commit = record.applied_commit  # a commit that does not count is not the one that runs
    up = _going_on(record, workload)
    kept = replace(
        up, applied=workload, applied_commit=commit, failure=_of_version(record.failure, workload), waiting=None
    )
    if kept.state is State.RUNNING:
        return replace(kept, serving_commit=commit, error_summary=_still_wrong(kept), since=None)
    return replace(kept, state=State.DEPLOYING)


def _start(record: Record, start: Start, now: datetime) -> tuple[Record, Event]:
    new = start.workload
    told = {"downtime": start.downtime, "estimate_s": start.estimate_s}
    started = _go(record, new, start.commit)
    started = replace(
        started,
        # What answers already is not being loaded.
        since=None if start.is_adopted else now,
        load_estimate_s=start.estimate_s,
        error_summary=start.downtime or started.error_summary,
    )
    changes = {"version": new.version, "replicas": new.num_replicas, "surge": new.surge}
    changes |= {name: value for name, value in told.items() if value is not None}
    return started, event_of(record, EventType.DEPLOY_STARTED, start.commit, now, **changes)


def _scale(record: Record, workload: Workload, commit: Commit, now: datetime) -> Record:
    """Scale. A load that is under way goes on, and with it the time that it takes."""
    is_loading = record.state is State.DEPLOYING and (is_changing(record) or record.serving is None)
    scaled = _go(record, workload, commit)
    return scaled if is_loading else replace(scaled, since=now)


def _go(record: Record, workload: Workload, commit: Commit) -> Record:
    started = replace(
        record,
        applied=workload,
        applied_commit=commit,
        state=State.DEPLOYING,
        failure=_of_version(record.failure, workload),
        waiting=None,
    )
    return replace(started, error_summary=_still_wrong(started))


def _wait(record: Record, wait: Wait, now: datetime) -> Record:
    on = _going_on(record, wait.workload)
    return replace(
        on,
        state=State.QUEUED if wait.workload is None else on.state,
        error_summary=wait.reason,
        waiting=wait.waiting,
        # What loads meanwhile tells its own time.
        since=on.since if record.waiting is not None or on.state is State.DEPLOYING else now,
        load_estimate_s=wait.estimate_s,
    )


def _hold(record: Record, hold: Hold, now: datetime) -> tuple[Record, Event | None]:
    on = _going_on(record, hold.workload)
    held = replace(
        on,
        state=State.FAILED if hold.workload is None else on.state,
        error_summary=hold.reason,
        waiting=hold.waiting,
        since=on.since if on.state is State.DEPLOYING else None,
    )
    # Told once: when it is the cluster that is too small, and again where the numbers are others.
    if hold.waiting is None or hold.waiting == record.waiting:
        return held, None
    return held, event_of(record, EventType.DEPLOY_FAILED, hold.commit, now, message=hold.reason)


def _going_on(record: Record, workload: Workload | None) -> Record:
    """Give a model of which `workload` goes on while something newer does not come up."""
    if workload is None:
        return replace(record, state=State.FAILED)
    if record.applied is not None or record.serving_commit is None:
        return record
    # The newer version failed in this very pass, and has not been taken back yet.
    state = State.RUNNING if _still_up(record) else State.DEPLOYING
    return replace(record, applied=workload, applied_commit=record.serving_commit, state=state)


def _settle(record: Record, workload: Workload | None, now: datetime) -> tuple[Record, Event | None]:
    if workload is not None and record.applied == workload:
        return replace(record, waiting=None), None
    if workload is None or record.serving_commit is None:
        return replace(record, applied=None, state=State.FAILED, waiting=None), None
    back = replace(
        record,
        applied=workload,
        applied_commit=record.serving_commit,
        state=State.RUNNING if _still_up(record) else State.DEPLOYING,
        since=None if _still_up(record) else now,
        waiting=None,
    )
    return back, event_of(record, EventType.ROLLED_BACK, record.commit, now, serving_commit=record.serving_commit.sha)


def _remove(record: Record, now: datetime) -> tuple[Record, Event | None]:
    if record.deployment is None and record.applied is None:
        gone = replace(record, state=State.DELETED, error_summary=None)
        return gone, event_of(record, EventType.DELETED, record.commit, now)
    return replace(record, state=State.DELETING, applied=None, error_summary=None, waiting=None, since=None), None


def _still_up(record: Record) -> bool:
    """Say whether the last version that answered does so still, while another one was to take its place."""
    return record.deployment is not None and record.deployment.running > 0


def _attempt(failure: Failure) -> dict[str, Any]:
    return {"message": failure.message, "attempts": failure.attempts, "retry_at": iso(failure.retry_at)}


def _of_version(failure: Failure | None, workload: Workload) -> Failure | None:
    """Forget the failure of any other version: a new commit starts afresh."""
    return failure if failure is not None and failure.version == workload.version else None


def _still_wrong(record: Record) -> str | None:
    """Say what keeps the newest commit from being what answers, although something does."""
    if record.rejection is not None:
        return record.rejection.message
    return record.failure.message if record.failure is not None else None


def _visible(record: Record) -> tuple[Any, ...]:
    known = (record.commit.sha, record.state, record.error_summary, record.serving_commit, record.applied, record.spec)
    return (*known, record.held)
