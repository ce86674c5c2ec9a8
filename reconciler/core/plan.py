"""The decision: which of its possible lives each model leads next. Equal arguments give equal plans.

A model is decided on its own, by the first rung of the ladder in `_decide` that fits. Only room is shared
(`core.sharing`): who wants more than they hold stands in line, and a plan never starts what cannot fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import assert_never

from reconciler.core import room
from reconciler.core.actions import Action, Hold, Idle, Keep, Refuse, Remove, Scale, Settle, Start, Wait
from reconciler.core.desired import Wanted
from reconciler.core.entities import (
    PLATFORM,
    App,
    Cluster,
    Deployment,
    Health,
    Located,
    Observation,
    Record,
    Unusable,
    Workload,
)
from reconciler.core.estimates import LoadTimes
from reconciler.core.retry import waits
from reconciler.core.sharing import Ask, Ground, Sharing
from reconciler.core.workload import engine_version, workload
from reconciler.spec import UpdateStrategy

__all__ = [
    "Action",
    "Hold",
    "Idle",
    "Keep",
    "Plan",
    "Refuse",
    "Remove",
    "Scale",
    "Settle",
    "Start",
    "Wait",
    "differs",
    "plan",
]

_NONE_SEEN: Mapping[str, Deployment] = MappingProxyType({})
_NO_LOADS = LoadTimes()


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
    update_strategy: UpdateStrategy = "auto",
    others_gpus: float = 0.0,
    deployments: Mapping[str, Deployment] = _NONE_SEEN,
    load_times: LoadTimes = _NO_LOADS,
) -> Plan:
    """Decide for every model that is wanted or known.

    Args:
        wanted: What the repository wants, by model key.
        folders: Where each model's folder is, for all models with an accepted spec.
        records: What the ledger knows, brought up to date with what was observed.
        cluster: The GPUs there are.
        now: The time, for failed versions that wait.
        platform: What the platform's configuration adds to every engine (`core.workload`).
        update_strategy: How models are updated whose spec does not say.
        others_gpus: GPUs that others hold on the same Ray (`room.others`).
        deployments: What Serve holds, so that a model of which the ledger knows nothing is taken over as it runs.
        load_times: How long earlier starts took.
    """
    actions: dict[str, Action] = {}
    asks: dict[str, Ask] = {}
    for key, want in wanted.items():
        decided = _decide(
            want,
            folders.get(key),
            records.get(key),
            deployments.get(key),
            now=now,
            platform=platform,
            strategy=update_strategy,
        )
        if isinstance(decided, Ask):
            asks[key] = decided
        else:
            actions[key] = decided
    adopted = {key: action.workload for key, action in actions.items() if isinstance(action, Start)}
    actions |= Sharing(wanted, records, adopted, Ground(cluster, others_gpus, load_times)).serve(asks)
    for key in records.keys() - wanted.keys():
        actions[key] = Remove()
    return Plan(actions=actions, app=_app(wanted, actions))


def differs(app: App, seen: Observation, apart_from: Collection[str] = ()) -> bool:
    """Say whether Serve holds anything else than `app`: a model more, a model less, a version, a number, a root.

    What differs of the deployments that `apart_from` names, and of the application where it has PLATFORM, counts for
    nothing.
    """
    if PLATFORM not in apart_from and (seen.app_status is None or not seen.root_is_current):
        return True
    held = {
        key: (each.version, each.target_replicas)
        for key, each in seen.deployments.items()
        if each.health is not Health.STOPPING
    }
    wanted = {key: (each.version, each.num_replicas) for key, each in app.workloads.items()}
    return any(held.get(key) != wanted.get(key) for key in (held.keys() | wanted.keys()).difference(apart_from))


def _decide(  # noqa: PLR0911  one return a rung
    wanted: Wanted,
    folder: Located | Unusable | None,
    record: Record | None,
    seen: Deployment | None,
    *,
    now: datetime,
    platform: str,
    strategy: UpdateStrategy,
) -> Action | Ask:
    """Take the first rung that fits. What may need room becomes an ask."""
    identity, commit = wanted.file.identity, wanted.file.commit
    held = room.runs(record)
    if wanted.effective is None:
        return Idle()
    version = engine_version(wanted.effective, identity, platform)
    if record is not None and waits(record.failure, version, now):
        # Where nothing was started for it (`Refuse`), what runs or loads goes on: nothing has taken its place.
        return Settle(held if held is not None and held.version != version else record.serving)
    if not isinstance(folder, Located):
        reason = folder.reason if folder else "the model's folder was not looked for"
        return Refuse(held, version, commit, reason)
    next_one = workload(wanted.effective, identity, folder, platform)
    if seen is not None and room.unrecorded(record, seen):
        # It runs: whatever the room, it must not be taken down. Replicas beyond those there are stand in line later.
        if seen.version == version:
            next_one = replace(next_one, num_replicas=max(1, min(next_one.num_replicas, seen.target_replicas)))
        return Start(next_one, commit, is_adopted=seen.version == version and seen.health is Health.HEALTHY)
    if held is not None and held.version == version:
        next_one = replace(next_one, surge=held.surge)
        if held.num_replicas == next_one.num_replicas:
            return Keep(next_one, commit)
        if held.num_replicas > next_one.num_replicas:
            return Scale(next_one, commit)
    return Ask(next_one, commit, wanted.effective.update_strategy or strategy)


def _workload(action: Action) -> Workload | None:
    match action:
        case Keep() | Start() | Scale() | Settle() | Refuse() | Wait() | Hold():
            return action.workload
        case Idle() | Remove():
            return None
        case _:
            assert_never(action)


def _app(wanted: Mapping[str, Wanted], actions: Mapping[str, Action]) -> App:
    decided = {key: _workload(actions[key]) for key in sorted(wanted)}
    return App({key: running for key, running in decided.items() if running is not None})
