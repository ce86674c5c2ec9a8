"""What users see of a model: git (what is wanted) joined with the ledger (what was done and seen).

Pure. A model's file is None where the repository has none any more; its record is None where the reconciler has not
seen it yet. Where the record is older than the file's commit, the file speaks: what it asks for is QUEUED.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.core.entities import Deployment, Event, Identity, Record, SpecFile, State
from reconciler.names import APP_NAME
from reconciler.ports import PlatformStatus
from reconciler.spec import ServingSpec, SpecRejected, UpdateStrategy, resolved_yaml
from webapi import model_schemas, status_schemas

_GONE = {State.DELETING, State.DELETED}


@dataclass(frozen=True, slots=True)
class Model:
    """One model, as git and the ledger have it. At least one of the two does.

    `spec` is what the file says: needed (and only looked at) where `is_ahead`. `damaged` says why nobody can read that.
    """

    file: SpecFile | None
    record: Record | None
    spec: ServingSpec | SpecRejected | None = None
    damaged: str | None = None

    @property
    def identity(self) -> Identity:
        """Who the model is."""
        known = self.file or self.record
        assert known is not None, "a model is in git or in the ledger"  # noqa: S101  the class's invariant
        return known.identity

    @property
    def is_ahead(self) -> bool:
        """Say whether the file has something that the reconciler has not seen yet."""
        if self.file is None:
            return False
        record = self.record
        if record is None or record.state in _GONE:
            return True
        return self.file.commit.sha not in {record.commit.sha, record.held.commit.sha if record.held else None}


def joined(files: Mapping[str, SpecFile], records: Mapping[str, Record]) -> list[Model]:
    """Join both sides, keyed by model key. Records of models that are DELETED are history, not models."""
    keys = files.keys() | {key for key, record in records.items() if record.state is not State.DELETED}
    return [Model(files.get(key), records.get(key)) for key in keys]


def state(model: Model) -> State:
    """Say which state a model is in."""
    record = model.record
    if model.file is None and record is not None and record.held is not None:
        return record.state  # its removal does not count now
    if model.file is None:
        return State.DELETED if record is not None and record.state is State.DELETED else State.DELETING
    if record is not None and not model.is_ahead:
        return record.state
    if model.damaged is not None:
        return State.QUEUED if record is None or record.spec is None or record.state in _GONE else record.state
    if not isinstance(model.spec, SpecRejected):
        return State.QUEUED
    # What is refused changes nothing: a model that ran before goes on as it was.
    return State.FAILED if record is None or record.spec is None or record.state in _GONE else record.state


def effective_spec(model: Model) -> ServingSpec | None:
    """Give the spec that counts: the newest that was acceptable, None where there never was one."""
    if model.is_ahead and isinstance(model.spec, ServingSpec):
        return model.spec
    return model.record.spec if model.record is not None else None


def serving_model(model: Model, openai_base_url: str, now: datetime) -> model_schemas.ServingModel:
    """Give the ServingModel of the API's reference. `now` is for how long something has been under way."""
    identity, spec = model.identity, effective_spec(model)
    return model_schemas.ServingModel(
        model_key=identity.model_key,
        user_id=identity.user_id,
        model_id=identity.model_id,
        model_id_suffix=identity.suffix,
        model_id_prefix=identity.model_id.removesuffix(f"-{identity.suffix}"),
        model_source=spec.model_source if spec else None,
        num_replicas=spec.num_replicas if spec else None,
        gpus_per_replica=spec.gpus_per_replica if spec else None,
        total_gpus=spec.num_replicas * spec.gpus_per_replica if spec else None,
        state=state(model),
        endpoint=model_schemas.Endpoint(openai_base_url=openai_base_url, model=identity.model_id),
        error_summary=_error_summary(model),
        held=_held(model),
        created_at=identity.created_at,
        updated_at=max(_times(model)),
        commit=commit(model),
        serving_commit=_serving_commit(model.record),
        progress=_progress(model, now),
        blob=model.file.blob if model.file else None,
    )


def commit(model: Model) -> str:
    """Give the SHA of the commit that is wanted: the file's newest, or the one that removed it once that is known."""
    known = model.file or model.record
    assert known is not None, "a model is in git or in the ledger"  # noqa: S101  Model's invariant
    return known.commit.sha


def written(model: Model) -> model_schemas.ModelWritten:
    """Give the answer to a change that needed no commit, or whose commit is in `model` already."""
    return model_schemas.ModelWritten(model_key=model.identity.model_key, state=state(model), commit=commit(model))


def detail(
    model: Model,
    events: Sequence[Event],
    status: PlatformStatus | None,
    openai_base_url: str,
    now: datetime,
    *,
    update_strategy: UpdateStrategy = "auto",
) -> model_schemas.ModelDetail:
    """Give a model's detail. `events` are in order of time; `status` is None before the reconciler's first pass.

    `update_strategy` is the platform's, for specs that do not say.
    """
    spec = effective_spec(model)
    return model_schemas.ModelDetail(
        model=serving_model(model, openai_base_url, now),
        resolved_spec_yaml=resolved_yaml(spec, update_strategy) if spec else None,
        events=[event_view(event) for event in events],
        serve_status=model_schemas.ModelServeStatus(
            app_name=APP_NAME,
            app_status=status.app_status if status else None,
            deployment=_deployment(model.record.deployment if model.record else None),
        ),
    )


def event_view(event: Event) -> model_schemas.ModelEvent:
    """Give an event as users see it."""
    return model_schemas.ModelEvent(
        event_type=event.event_type,
        created_at=event.created_at,
        commit=event.commit,
        author=event.author,
        source=event.source,
        payload=dict(event.payload),
    )


def platform(
    counted: Mapping[State, int],
    head: str | None,
    status: PlatformStatus | None,
    *,
    holds: status_schemas.HoldsSummary | None,
    fetched_at: datetime | None = None,
    trouble: str | None = None,
    events: Sequence[Event] = (),
    outbox: status_schemas.OutboxSummary | None = None,
) -> status_schemas.PlatformSummary:
    """Give the platform's summary. `counted` are the models by their state.

    `head` is the revision of the branch, None while it is unborn or cannot be read. `trouble` says why that is not the
    newest; `fetched_at` is about the copy of a remote repository, `events` those that are about no model.
    `holds` is what keeps changes from counting now; None where that is not known. `outbox` says how much of
    what is to be told has not arrived.
    """
    return status_schemas.PlatformSummary(
        app=status_schemas.AppSummary(
            name=APP_NAME,
            status=status.app_status if status else None,
            message=status.app_message if status else "the reconciler has not made a pass yet",
        ),
        gpus=status_schemas.GpuSummary(total=status.total_gpus, free=status.free_gpus) if status else None,
        revision=status_schemas.RevisionSummary(
            head=head, last_seen=status.revision if status else None, fetched_at=fetched_at, error=trouble
        ),
        models={each: counted.get(each, 0) for each in State if each is not State.DELETED},
        reconciler=status_schemas.ReconcilerSummary(
            last_pass_at=status.seen_at if status else None,
            error=status.error if status else None,
            notes_error=status.notes_error if status else None,
            drift=status.drift if status else None,
        ),
        holds=holds,
        outbox=outbox or status_schemas.OutboxSummary(pending=0, dead=0),
        events=[event_view(event) for event in events],
    )


def _error_summary(model: Model) -> str | None:
    if model.is_ahead:
        return model.spec.message if isinstance(model.spec, SpecRejected) else model.damaged
    held = _held(model)
    if model.record is None or held is None:
        return model.record.error_summary if model.record else None
    failed = model.record.error_summary if model.record.state is State.FAILED else None
    return f"{failed}; {held.message}" if failed else held.message


def _held(model: Model) -> model_schemas.ModelHeld | None:
    held = model.record.held if model.record is not None and not model.is_ahead else None
    if held is None:
        return None
    return model_schemas.ModelHeld(
        kind=held.kind, message=held.message, since=held.since, commit=held.commit.sha, removes=held.removes
    )


def _progress(model: Model, now: datetime) -> model_schemas.ModelProgress | None:
    record = model.record
    if record is None or model.is_ahead or model.file is None:
        return None
    waiting = record.waiting
    if waiting is None and record.state is not State.DEPLOYING:
        return None
    loading = record.deployment.phase if record.deployment is not None else None
    return model_schemas.ModelProgress(
        phase=loading if record.state is State.DEPLOYING else "waiting",
        since=record.since,
        elapsed_s=max(0, int((now - record.since).total_seconds())) if record.since is not None else None,
        estimated_s=record.load_estimate_s,
        position=waiting.position if waiting is not None else None,
        needs_gpus=waiting.needs_gpus if waiting is not None else None,
        free_gpus=waiting.free_gpus if waiting is not None else None,
    )


def _times(model: Model) -> list[datetime]:
    times = [model.file.commit.committed_at] if model.file else []
    return [*times, model.record.updated_at] if model.record else times


def _serving_commit(record: Record | None) -> str | None:
    """Give the commit that answers: none while no replica runs, whatever answered before."""
    if record is None or record.serving_commit is None or record.deployment is None or not record.deployment.running:
        return None
    return record.serving_commit.sha


def _deployment(seen: Deployment | None) -> model_schemas.ModelDeployment | None:
    if seen is None:
        return None
    return model_schemas.ModelDeployment(
        health=seen.health,
        target_replicas=seen.target_replicas,
        running=seen.running,
        starting=seen.starting,
        stopping=seen.stopping,
        message=seen.message,
    )
