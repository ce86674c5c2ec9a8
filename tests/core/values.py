"""Small builders of the core's values, so that a test names only what it is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.core.desired import Wanted
from reconciler.core.entities import (
    Cluster,
    Commit,
    Deployment,
    Health,
    Identity,
    Located,
    Observation,
    Record,
    SpecFile,
    State,
    Workload,
)
from reconciler.core.workload import workload
from reconciler.spec import Problem, ServingSpec, SpecRejected

NOW = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
PLATFORM = "{}"
DELAYS = (15.0, 60.0)
REFUSED = SpecRejected(Problem.INVALID, "num_replicas: 'two' is no count")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def commit(sha: str = "c1", author: str = "alice", at: datetime = NOW) -> Commit:
    return Commit(sha=sha, author=author, committed_at=at, source="git")


def identity(user: str = "alice", suffix: str = "qwen") -> Identity:
    return Identity(
        model_key=f"svc-{user}-20260106-123000-{suffix:.4}",
        model_id=f"{user}-202601061230-{suffix}",
        user_id=user,
        suffix=suffix,
        path=f"users/{user}/{suffix}.yaml",
        created_at=NOW,
    )


def spec(suffix: str = "qwen", **fields: Any) -> ServingSpec:
    return ServingSpec(**{"model_id": suffix, "model_source": "/private/hf/demo", **fields})


def wanted(
    says: ServingSpec | SpecRejected, *, who: Identity | None = None, by: Commit | None = None, effective: Any = ...
) -> Wanted:
    file = SpecFile(who or identity(), blob="b1", mode="100644", commit=by or commit())
    if effective is ...:
        effective = says if isinstance(says, ServingSpec) else None
    return Wanted(file, says, effective)


def work(says: ServingSpec, who: Identity | None = None, **changes: Any) -> Workload:
    return replace(workload(says, who or identity(), Located("/private/hf/demo"), PLATFORM), **changes)


def record(says: ServingSpec | None = None, who: Identity | None = None, **fields: Any) -> Record:
    base = Record(identity=who or identity(), blob="b1", commit=commit(), state=State.QUEUED, updated_at=NOW, spec=says)
    return replace(base, **fields)


def running(says: ServingSpec, who: Identity | None = None, by: Commit | None = None, **fields: Any) -> Record:
    up = work(says, who)
    return record(
        says,
        who,
        state=State.RUNNING,
        applied=up,
        applied_commit=by or commit(),
        serving=up,
        serving_commit=by or commit(),
        deployment=deployment(up),
        **fields,
    )


def deployment(
    of: Workload, health: Health = Health.HEALTHY, running: int | None = None, message: str = ""
) -> Deployment:
    count = of.num_replicas if running is None else running
    return Deployment(of.model_key, of.version, health, of.num_replicas, count, 0, 0, message)


def seen(*deployments: Deployment, total_gpus: float = 8) -> Observation:
    return Observation("RUNNING", "", {d.model_key: d for d in deployments}, Cluster(total_gpus, total_gpus))
