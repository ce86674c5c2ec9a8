"""How far replicas are that start: placed or not, loading weights, or waiting for their first answer.

Serve knows the first; what happens inside a replica it says itself, by an entry in Ray's own key-value store that lasts
from the engine's start to the first answer. What replicas call goes to the cluster by value, with the engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import ray
from ray import serve
from ray.exceptions import RayError
from ray.experimental import internal_kv

Phase: TypeAlias = Literal["scheduling", "loading", "warming_up"]

_NAMESPACE = b"argus"
_PREFIX = b"phase/"


def tell(phase: Phase) -> None:
    """Say how far this replica is. Silent where Ray's store does not take it: it is for people only."""
    with contextlib.suppress(RayError, OSError):
        internal_kv._internal_kv_put(_key(_replica_id()), phase.encode(), overwrite=True, namespace=_NAMESPACE)


def forget() -> None:
    """Take back what `tell` said: the replica has started."""
    with contextlib.suppress(RayError, OSError):
        internal_kv._internal_kv_del(_key(_replica_id()), namespace=_NAMESPACE)


def is_stopped() -> bool:
    """Say whether Serve has told this replica to go. It calls `__del__` for that, on the loop that a load blocks."""
    actors = getattr(ray._private.worker.global_worker, "actors", {})
    return any(
        getattr(getattr(actor, "_replica_impl", None), "_shutting_down", False) for actor in list(actors.values())
    )


def furthest(starting: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Phase]:
    """Give the phase of the most advanced replica of each model, by model key. Asks Ray only where some replica starts.

    Args:
        starting: Serve's details of the replicas that start, by model key; a model without any is left out.
    """
    ids = {str(replica["replica_id"]) for replicas in starting.values() for replica in replicas}
    if not ids:
        return {}
    warm = _warming_up(ids)
    waits = any(replica.get("pid") is None for replicas in starting.values() for replica in replicas)
    placed = _placed() if waits else frozenset()
    return {key: _furthest(replicas, warm, placed) for key, replicas in starting.items() if replicas}


def _furthest(replicas: Iterable[Mapping[str, Any]], warm: Collection[str], placed: Collection[str]) -> Phase:
    found: Phase = "scheduling"
    for replica in replicas:
        if replica["replica_id"] in warm:
            return "warming_up"
        if replica.get("pid") is not None or replica.get("actor_name") in placed:
            found = "loading"
    return found


def _warming_up(starting: Collection[str]) -> frozenset[str]:
    """Give the replicas that wait for their first answer. What one that died meanwhile has left is removed."""
    said = {
        bytes(key).removeprefix(_PREFIX).decode(): key
        for key in internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE)
    }
    for replica in said.keys() - starting:
        internal_kv._internal_kv_del(said[replica], namespace=_NAMESPACE)
    return frozenset(said.keys() & starting)


def _placed() -> frozenset[str]:
    """Give the names of the placement groups that have their resources. Serve names each after its replica's actor."""
    groups = ray.util.placement_group_table()
    return frozenset(str(group["name"]) for group in groups.values() if group["state"] == "CREATED")


def _key(replica_id: str) -> bytes:
    return _PREFIX + replica_id.encode()


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)
