"""The runtime's promises, held by the one in memory and by real Ray Serve.

The deployments on real Ray are toys: the processes are real, and so is everything that Serve does to them. This suite
is the alarm for Ray's private names (`shell.serve`, `shell.ingress`): a Ray that changes them fails here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol

import httpx
import pytest

from reconciler.core.entities import App, CatalogueEntry, Deployment, Health, Observation, Workload
from reconciler.ports import Runtime
from reconciler.testing import MemoryRuntime
from tests.processes import free_port, running_ray

CREATED = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
LONGEST_S = 120


class Rig(Protocol):
    @property
    def runtime(self) -> Runtime: ...
    def pids(self, key: str) -> frozenset[int]: ...
    def ingress_pids(self) -> frozenset[int]: ...
    def pause(self) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self.memory = MemoryRuntime(total_gpus=8)
        self.memory.broken.add("/private/hf/broken")
        self.runtime: Runtime = self.memory

    def pids(self, key: str) -> frozenset[int]:
        return self.memory.pids(key)

    def ingress_pids(self) -> frozenset[int]:
        return frozenset({self.memory.ingress_pid})

    def pause(self) -> None:
        self.memory.step()


class ServeRig:
    def __init__(self, address: str) -> None:
        from reconciler.settings import ServingSettings
        from reconciler.shell.serve import ServeRuntime
        from tests.contracts import toy_server

        self.port = free_port()
        serving = ServingSettings(port=self.port)
        self.runtime = ServeRuntime(serving, lambda: address, toy_server.deploy, by_value=(toy_server,))
        self.runtime.connect()

    def pids(self, key: str) -> frozenset[int]:
        from ray.serve.context import _get_global_client

        app = _get_global_client().get_serve_details()["applications"]["argus_llm_app"]
        replicas = app["deployments"].get(key, {"replicas": []})["replicas"]
        # UPDATING is a live process that takes a new list of models: the ingress, for a moment.
        return frozenset(replica["pid"] for replica in replicas if replica["state"] in {"RUNNING", "UPDATING"})

    def ingress_pids(self) -> frozenset[int]:
        return self.pids("argus-ingress")

    def pause(self) -> None:
        time.sleep(0.2)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30)

    def chat(self, model: str | None) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        return httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, timeout=30)


@pytest.fixture(scope="module")
def serve_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeRig]:
    with running_ray(tmp_path_factory.mktemp("ray"), gpus=8) as address:
        rig = ServeRig(address)
        yield rig
        rig.runtime.close()


@pytest.fixture(params=["memory", pytest.param("serve", marks=[pytest.mark.engine, pytest.mark.timeout(600)])])
def rig(request: pytest.FixtureRequest) -> Rig:
    return MemoryRig() if request.param == "memory" else request.getfixturevalue("serve_rig")


def workload(
    name: str, version: str = "v1", replicas: int = 1, source: str = "demo", *, surge: bool = True
) -> Workload:
    return Workload(
        model_key=f"svc-{name}-20260106-123000-abcd",
        model_id=f"{name}-202601061230-qwen-0.5b",
        user_id=name,
        created_at=CREATED,
        version=version,
        source_path=f"/private/hf/{source}",
        num_replicas=replicas,
        gpus_per_replica=1,
        engine_kwargs={},
        surge=surge,
    )


def entry(of: Workload, reason: str | None = None) -> CatalogueEntry:
    return CatalogueEntry(of.model_id, of.model_key, of.user_id, of.created_at, reason)


def app(*workloads: Workload, held: tuple[CatalogueEntry, ...] = ()) -> App:
    running = tuple(entry(workload) for workload in workloads)
    return App({workload.model_key: workload for workload in workloads}, running + held)


def until(rig: Rig, is_so: Callable[[Observation], bool]) -> Observation:
    deadline = time.monotonic() + LONGEST_S
    while not is_so(seen := rig.runtime.observe()):
        assert time.monotonic() < deadline, f"not so after {LONGEST_S} s: {seen}"
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


def test_no_model_at_all_is_a_valid_application(rig: Rig) -> None:
    rig.runtime.apply(app())
    seen = until(rig, lambda seen: seen.app_status == "RUNNING" and not seen.deployments)
    assert seen.catalogue_digest == app().catalogue_digest
    assert seen.cluster.total_gpus == 8


def test_what_was_applied_can_be_observed(rig: Rig) -> None:
    a = workload("alice", replicas=2)
    rig.runtime.apply(app(a))
    seen = until(rig, is_up(a))
    found = seen.deployments[a.model_key]
    assert (found.version, found.target_replicas, found.running) == ("v1", 2, 2)
    assert seen.catalogue_digest == app(a).catalogue_digest
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_nothing_that_happens_to_one_model_touches_another_or_the_ingress(rig: Rig) -> None:
    a, b = workload("alice"), workload("bob")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes, ingress = rig.pids(a.model_key), rig.ingress_pids()
    assert len(processes) == 1

    def untouched() -> bool:
        return rig.pids(a.model_key) == processes and rig.ingress_pids() == ingress

    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    assert untouched(), "adding a model touched another"
    first = rig.pids(b.model_key)

    two = workload("bob", replicas=2)
    rig.runtime.apply(app(a, two))
    until(rig, is_up(two))
    assert untouched(), "scaling a model touched another"
    assert first < rig.pids(b.model_key), "scaling a model replaced its own replicas"

    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    updated = workload("bob", version="v2")
    rig.runtime.apply(app(a, updated))
    until(rig, is_up(updated))
    assert untouched(), "updating a model touched another"
    second = rig.pids(b.model_key)
    assert not second & first

    broken = workload("bob", version="v3", source="broken")
    rig.runtime.apply(app(a, broken))
    seen = until(rig, lambda seen: seen.deployments[b.model_key].health is Health.FAILED)
    assert "the engine found no weights in its folder" in seen.deployments[b.model_key].message
    assert untouched(), "a model that breaks touched another"
    assert rig.pids(b.model_key) == second, "a broken update took the replica that answers"

    rig.runtime.apply(app(a, updated))
    until(rig, is_up(updated))
    assert rig.pids(b.model_key) == second, "going back to what runs started it anew"

    rig.runtime.apply(app(a))
    until(rig, gone(b))
    assert untouched(), "removing a model touched another"

    rig.runtime.apply(app(a, held=(entry(b, "its spec was refused"),)))
    until(rig, lambda seen: seen.catalogue_digest != app(a).catalogue_digest)
    assert untouched(), "a name that is only known touched a model"


def test_applying_again_changes_nothing(rig: Rig) -> None:
    a = workload("alice")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    assert rig.pids(a.model_key) == processes


def test_without_surge_the_old_version_goes_first(rig: Rig) -> None:
    a = workload("alice")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    before = rig.pids(a.model_key)
    changed = workload("alice", version="v9", surge=False)
    rig.runtime.apply(app(changed))
    until(rig, is_up(changed))
    after = rig.pids(a.model_key)
    assert len(after) == 1
    assert not after & before


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_ingress_answers_for_ready_models_only_and_says_why(serve_rig: ServeRig) -> None:
    up, broken = workload("alice"), workload("carl", source="broken")
    held = entry(workload("dora"), "its spec was refused")
    serve_rig.runtime.apply(app(up, broken, held=(held,)))
    until(serve_rig, is_up(up))
    until(serve_rig, lambda seen: seen.deployments[broken.model_key].health is Health.FAILED)

    card = {"id": up.model_id, "object": "model", "created": int(CREATED.timestamp()), "owned_by": "alice"}
    assert serve_rig.get("/v1/models").json() == {"object": "list", "data": [card]}
    assert serve_rig.get(f"/v1/models/{up.model_id}").json() == card
    answers = [
        (serve_rig.chat("nobody"), 404, "model_not_found", None),
        (serve_rig.chat(broken.model_id), 503, "model_failed", "60"),
        (serve_rig.chat(held.model_id), 503, "model_not_ready", "60"),
        (serve_rig.chat(None), 400, "model_required", None),
        (serve_rig.get("/nowhere"), 404, None, None),
    ]
    for answer, status, code, retry_after in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.headers.get("retry-after")) == (status, code, retry_after)
        assert error["type"] == ("server_error" if status == 503 else "invalid_request_error")
    assert "its spec was refused" in serve_rig.chat(held.model_id).json()["error"]["message"]
