"""Runtimes as the contract suite runs them: the one in memory, and real Ray Serve with toys for engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import httpx

from reconciler.core.entities import App, Deployment, Health, Observation, Workload
from reconciler.core.routes import Replica
from reconciler.core.wire import SECRET_HEADER
from reconciler.names import APP_NAME
from reconciler.ports import Runtime
from reconciler.testing import MemoryRuntime
from tests.processes import free_port

CREATED = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
LONGEST_S = 120


class Rig(Protocol):
    @property
    def runtime(self) -> Runtime: ...
    def pids(self, key: str) -> frozenset[int]: ...
    def pause(self) -> None: ...
    def tamper(self, *workloads: Workload) -> None: ...
    def begin_anew(self) -> None: ...
    def delete_app(self) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self.memory = MemoryRuntime(total_gpus=8)
        self.memory.broken.add("/private/hf/broken")
        self.runtime: Runtime = self.memory

    def pids(self, key: str) -> frozenset[int]:
        return self.memory.pids(key)

    def pause(self) -> None:
        self.memory.step()

    def tamper(self, *workloads: Workload) -> None:
        self.memory.tamper(*workloads)

    def begin_anew(self) -> None:
        """Do nothing: this runtime is what Serve knows, and keeps nothing for the one who asks."""

    def delete_app(self) -> None:
        self.memory.delete_app()


class Heard:
    """Every set of replicas that a watch reported, in order."""

    def __init__(self) -> None:
        self.sets: list[tuple[Replica, ...]] = []
        self._changed = threading.Condition()

    def take(self, replicas: tuple[Replica, ...]) -> None:
        with self._changed:
            self.sets.append(replicas)
            self._changed.notify_all()

    @property
    def now(self) -> tuple[Replica, ...]:
        return self.sets[-1] if self.sets else ()

    def until(self, is_so: Callable[[tuple[Replica, ...]], bool]) -> tuple[Replica, ...]:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.sets) and is_so(self.now), LONGEST_S), self.sets
            return self.now

    def of(self, *workloads: Workload) -> Callable[[tuple[Replica, ...]], bool]:
        """Say whether exactly these workloads' replicas are known."""
        wanted = sorted((one.model_key, one.version) for one in workloads for _ in range(one.num_replicas))
        return lambda known: sorted((one.model_key, one.version) for one in known) == wanted


class ServeRig:
    def __init__(self, address: str) -> None:
        from reconciler.settings import ServingSettings
        from reconciler.shell.replicas import ReplicaWatch

        self.address = address
        self.serving = ServingSettings(port=free_port())
        self.heard = Heard()
        self.watch = ReplicaWatch(self.heard.take)
        self.stand_behind("haproxy")

    def stand_behind(self, front: str) -> None:
        """Be the reconciler's process that is started with this front."""
        from reconciler.shell import phases, pulse, replica_server
        from reconciler.shell.serve import ServeRuntime
        from tests.contracts import toy_server

        self.runtime = ServeRuntime(
            self.serving,
            lambda: self.address,
            toy_server.deploy,
            by_value=(toy_server, replica_server, pulse, phases),
            front="ray" if front == "ray" else "haproxy",
            follow=self.watch.follow,
        )
        self.runtime.connect()

    def pids(self, key: str) -> frozenset[int]:
        from ray.serve.context import _get_global_client

        app = _get_global_client().get_serve_details()["applications"]["argus_llm_app"]
        replicas = app["deployments"].get(key, {"replicas": []})["replicas"]
        return frozenset(replica["pid"] for replica in replicas if replica["state"] == "RUNNING")

    def pause(self) -> None:
        time.sleep(0.2)

    def tamper(self, *workloads: Workload) -> None:
        """Be somebody with a script of their own: the same application, and other deployments in it."""
        from ray.serve.api import RunTarget, run_many

        from reconciler.shell.serve import _versioned
        from tests.contracts import toy_server

        models = {each.model_key: _versioned(toy_server.deploy(each), each.version) for each in workloads}
        target = RunTarget(self.runtime._root(models), name=APP_NAME, route_prefix=None)
        run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def begin_anew(self) -> None:
        """Be a reconciler's process that has applied nothing yet, with a ledger that is new."""
        self.stand_behind("haproxy")

    def delete_app(self) -> None:
        from ray import serve

        serve.delete(APP_NAME, _blocking=False)

    def ask(self, replica: Replica, **body: object) -> httpx.Response:
        """Send a request to a replica as a front does."""
        url = f"http://{replica.address}/v1/chat/completions"
        return httpx.post(url, json=body, headers={SECRET_HEADER: self.runtime.secret}, timeout=LONGEST_S)

    def controller(self) -> object:
        from ray.serve.context import _get_global_client

        return _get_global_client()._controller


def workload(
    name: str, version: str = "v1", replicas: int = 1, source: str = "demo", *, gpus: int = 1, surge: bool = True
) -> Workload:
    return Workload(
        model_key=f"svc-{name}-20260106-123000-abcd",
        model_id=f"{name}-202601061230-qwen-0.5b",
        user_id=name,
        created_at=CREATED,
        version=version,
        source_path=f"/private/hf/{source}",
        num_replicas=replicas,
        gpus_per_replica=gpus,
        engine_kwargs={},
        surge=surge,
    )


def app(*workloads: Workload) -> App:
    return App({workload.model_key: workload for workload in workloads})


def until(rig: Rig, is_so: Callable[[Observation], bool], longest_s: float = LONGEST_S) -> Observation:
    deadline = time.monotonic() + longest_s
    while not is_so(seen := rig.runtime.observe()):
        assert time.monotonic() < deadline, f"not so after {longest_s:.0f} s: {seen}"
        rig.pause()
    return seen


def is_up(of: Workload) -> Callable[[Observation], bool]:
    def look(seen: Observation) -> bool:
        found: Deployment | None = seen.deployments.get(of.model_key)
        return (
            found is not None
            and found.version == of.version
            and found.health is Health.HEALTHY
            and found.running == of.num_replicas
            and found.starting == 0
        )

    return look


def gone(of: Workload) -> Callable[[Observation], bool]:
    return lambda seen: of.model_key not in seen.deployments


def is_at(model: Workload, seen: Observation) -> str | None:
    found = seen.deployments.get(model.model_key)
    return found.phase if found else None
