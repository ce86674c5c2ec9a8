"""The decision: which of its possible lives each model leads next. Equal arguments give equal plans.

A model is decided on its own, by the first rung of the ladder in `_decide` that fits. Only room is shared: GPUs are
given out in the order in which the models' commits came, so that a plan never starts what cannot fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias, assert_never

from reconciler.core.desired import Wanted
from reconciler.core.entities import (
    App,
    Cluster,
    Commit,
    Health,
    Located,
    Observation,
    Record,
    Unusable,
    Workload,
)
from reconciler.core.retry import waits
from reconciler.core.workload import engine_version, workload


@dataclass(frozen=True, slots=True)
class Keep:
    """The model runs as wanted, or is on its way there. `commit` may be newer than the one it was started for."""

    workload: Workload
    commit: Commit


@dataclass(frozen=True, slots=True)
class Start:
    """A version that does not run yet: the model's first, or the replacement of another."""

    workload: Workload
    commit: Commit


@dataclass(frozen=True, slots=True)
class Scale:
    """The version that runs, with another number of replicas."""

    workload: Workload
    commit: Commit


@dataclass(frozen=True, slots=True)
class Settle:
    """The wanted version failed and waits for its next attempt; meanwhile `workload` (the last that answered) runs."""

    workload: Workload | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The model's folder cannot be served: a failed attempt without a start. `workload` goes on."""

    workload: Workload | None
    version: str
    commit: Commit
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room. `workload` (what runs of this model) goes on."""

    workload: Workload | None
    reason: str


@dataclass(frozen=True, slots=True)
class Idle:
    """No version of the file was ever accepted, so there is nothing to run."""


@dataclass(frozen=True, slots=True)
class Remove:
    """The file is gone from the repository."""


Action: TypeAlias = Keep | Start | Scale | Settle | Refuse | Wait | Idle | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What each model does next, and the application that follows from it."""

    actions: Mapping[str, Action]
    app: App


def plan(
    *,
    wanted: Mapping[str, Wanted],
    folders: Mapping[str, Located | Unusable],
    records: Mapping[str, Record],
    cluster: Cluster,
    now: datetime,
    platform: str,
) -> Plan:
    """Decide for every model that is wanted or known.

    Args:
        wanted: What the repository wants, by model key.
        folders: Where each model's folder is, for all models with an accepted spec.
        records: What the ledger knows, brought up to date with what was observed.
        cluster: The GPUs there are.
        now: The time, for failed versions that wait.
        platform: What the platform's configuration adds to every engine (`core.workload`).
    """
    held = {key: gpus for key in wanted if (gpus := _gpus(records.get(key)))}
    actions: dict[str, Action] = {}
    for key in sorted(wanted, key=lambda key: (wanted[key].file.commit.committed_at, key)):
        others = sum(gpus for other, gpus in held.items() if other != key)
        room = int(cluster.total_gpus - others)
        action = _decide(wanted[key], folders.get(key), records.get(key), room, now=now, platform=platform)
        actions[key] = action
        running = _workload(action)
        held[key] = running.total_gpus if running else 0
    for key in records.keys() - wanted.keys():
        actions[key] = Remove()
    return Plan(actions=actions, app=_app(wanted, actions))


def differs(app: App, seen: Observation) -> bool:
    """Say whether Serve holds anything else than `app`: a model more, a model less, a version, a number, a root."""
    if seen.app_status is None or not seen.root_is_current:
        return True
    held = {key: deployment for key, deployment in seen.deployments.items() if deployment.health is not Health.STOPPING}
    if held.keys() != app.workloads.keys():
        return True
    return any(
        (held[key].version, held[key].target_replicas) != (wanted.version, wanted.num_replicas)
        for key, wanted in app.workloads.items()
    )


def _decide(
    wanted: Wanted,
    folder: Located | Unusable | None,
    record: Record | None,
    room: int,
    *,
    now: datetime,
    platform: str,
) -> Action:
    identity, commit = wanted.file.identity, wanted.file.commit
    applied = record.applied if record else None
    serving = record.serving if record else None
    if wanted.effective is None:
        return Idle()
    version = engine_version(wanted.effective, identity, platform)
    if record is not None and waits(record.failure, version, now):
        return Settle(serving)
    if not isinstance(folder, Located):
        reason = folder.reason if folder else "the model's folder was not looked for"
        return Refuse(applied, version, commit, reason)
    next_one = workload(wanted.effective, identity, folder, platform)
    if applied is not None and applied.version == version:
        next_one = replace(next_one, surge=applied.surge)
        same_size = applied.num_replicas == next_one.num_replicas
        return Keep(next_one, commit) if same_size else Scale(next_one, commit)
    if next_one.total_gpus > room:
        return Wait(applied, _no_room(next_one, room))
    # 4 GPUs, a model on 2 of them and nobody else: an update to a version of 2 GPUs fits beside the old (2 + 2).
    beside = room - (applied.total_gpus if applied else 0)
    return Start(replace(next_one, surge=applied is None or next_one.gpus_per_replica <= beside), commit)


def _no_room(workload: Workload, room: int) -> str:
    needs = f"needs {workload.total_gpus} GPU{'s' * (workload.total_gpus != 1)}"
    return (
        f"waiting for room: {needs} ({workload.num_replicas} x {workload.gpus_per_replica}), {max(room, 0)} free for it"
    )


def _gpus(record: Record | None) -> int:
    return record.applied.total_gpus if record and record.applied else 0


def _workload(action: Action) -> Workload | None:
    match action:
        case Keep() | Start() | Scale() | Settle() | Refuse() | Wait():
            return action.workload
        case Idle() | Remove():
            return None
        case _:
            assert_never(action)


def _app(wanted: Mapping[str, Wanted], actions: Mapping[str, Action]) -> App:
    decided = {key: _workload(actions[key]) for key in sorted(wanted)}
    return App({key: running for key, running in decided.items() if running is not None})
