"""Replicas of models that are gone, for which Ray has found no place yet.

Serve asks a replica that is to go for its leave, and gives it the time limit for draining. One without a process cannot
answer: for ten minutes its model would be leaving, and Ray would go on looking for a place for it.
"""

from __future__ import annotations

from collections.abc import Collection

import ray
from ray._private import state
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.constants import SERVE_NAMESPACE

from reconciler.names import APP_NAME

_UNPLACED = {"DEPENDENCIES_UNREADY", "PENDING_CREATION"}


def end_unplaced(model_keys: Collection[str]) -> None:
    """End the replicas of these models that have no process yet, and no others."""
    if not model_keys:
        return
    leaving = {DeploymentID(key, APP_NAME) for key in model_keys}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        name = actor["name"]
        if actor["namespace"] != SERVE_NAMESPACE or not ReplicaID.is_full_id_str(name):
            continue
        if ReplicaID.from_full_id_str(name).deployment_id not in leaving:
            continue
        try:
            handle = ray.get_actor(name, namespace=SERVE_NAMESPACE)
        except ValueError:  # it has gone by itself
            continue
        if state.actors(handle._actor_id.hex()).get("State") in _UNPLACED:
            ray.kill(handle)
