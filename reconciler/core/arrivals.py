"""Which models are about to be called RUNNING, and what is made of those that users do not reach yet.

Serve's word for a replica is that it has answered a request of its own. Users come by another road, through a front
that has to have heard of it. A model counts as running when an answer has come back by that road.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.core.entities import Health, Observation, Record, State


@dataclass(frozen=True, slots=True)
class Arrival:
    """A version that Serve calls healthy and that nobody has been told of. `commit` is what its answers carry."""

    model_key: str
    model_id: str
    version: str
    commit: str


def arrivals(records: Mapping[str, Record], seen: Observation) -> tuple[Arrival, ...]:
    """Find the models that this pass would call RUNNING and the last one did not."""
    return tuple(
        Arrival(key, record.identity.model_id, record.applied.version, record.applied_commit.sha)
        for key, record in records.items()
        if record.applied is not None
        and record.applied_commit is not None
        and record.state not in {State.DELETING, State.DELETED}
        and not _is_known(record)
        and (deployment := seen.deployments.get(key)) is not None
        and deployment.version == record.applied.version
        and deployment.health is Health.HEALTHY
        and deployment.running >= record.applied.num_replicas
    )


def held_back(seen: Observation, model_keys: Collection[str]) -> Observation:
    """Give what was seen with these models still starting: their last phase is not over."""
    if not model_keys:
        return seen
    deployments = {
        key: replace(deployment, health=Health.STARTING, phase="warming_up") if key in model_keys else deployment
        for key, deployment in seen.deployments.items()
    }
    return replace(seen, deployments=deployments)


def _is_known(record: Record) -> bool:
    return record.state is State.RUNNING and record.serving == record.applied
