"""The workers of an engine on GPUs: vLLM has Ray start them, so they are below the raylet and not below their replica.

The engine's core, which is below the replica, connects to Ray as a driver, and its workers are that driver's actors.
They end with it: Ray kills what a driver leaves behind, also what is stopped or deaf.

Sent to the cluster by value, like `engine`: nodes need Ray and vLLM, not Argus.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import psutil
import ray
from ray._private import state  # no public call names a driver's or an actor's process without a dashboard

log = logging.getLogger(__name__)


def ray_workers(drivers: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Give the processes on this node that Ray started for these on it; none where Ray cannot be asked."""
    if not ray.is_initialized():  # or else the first question would start a Ray
        return []
    try:
        pids = _actors_of({driver.pid for driver in drivers})
    except Exception as error:  # whatever Ray raises: a load is not ended for what is not known of it
        log.debug("Ray does not say which workers there are: %s: %s", type(error).__name__, error)
        return []
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _actors_of(drivers: set[int]) -> list[int]:
    here, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    return [
        actor["Pid"]
        for job in state.jobs()
        if job["DriverPid"] in drivers and job["DriverIPAddress"] == address and not job["IsDead"]
        for actor in state.actors(None, ray.JobID.from_hex(job["JobID"]), "ALIVE").values()
        if actor["Address"]["NodeID"] == here
    ]
