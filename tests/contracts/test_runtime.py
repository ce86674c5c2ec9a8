"""The runtime's promises, held by the one in memory and by real Ray Serve, and what Serve's replicas are known by.

The deployments on real Ray are toys: the processes are real, and so is everything that Serve does to them. This suite
is the alarm for Ray's private names (`shell.serve`, `shell.replicas`): a Ray that changes them fails here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from reconciler.core.entities import App, Deployment, Health, Observation, Workload
from reconciler.core.room import surge_peak
from reconciler.core.routes import Replica
from reconciler.core.wire import HEALTH_PATH, KEY_HEADER, SECRET_HEADER
from reconciler.errors import RuntimeLost
from reconciler.names import APP_NAME
from reconciler.ports import Runtime
from reconciler.testing import MemoryRuntime
from tests.processes import free_port, running_ray

CREATED = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
LONGEST_S = 120
ROOT = "argus-ingress"


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

        self._address = address
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
            lambda: self._address,
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


@pytest.fixture(scope="module")
def serve_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeRig]:
    with running_ray(tmp_path_factory.mktemp("ray"), gpus=8) as address:
        rig = ServeRig(address)
        yield rig
        rig.watch.close()
        rig.runtime.close()


@pytest.fixture(params=["memory", pytest.param("serve", marks=[pytest.mark.engine, pytest.mark.timeout(600)])])
def rig(request: pytest.FixtureRequest) -> Rig:
    return MemoryRig() if request.param == "memory" else request.getfixturevalue("serve_rig")


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


def listens(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=10)
    except httpx.ConnectError:
        return False
    return True


def gone(of: Workload) -> Callable[[Observation], bool]:
    return lambda seen: of.model_key not in seen.deployments


def test_no_model_at_all_is_a_valid_application(rig: Rig) -> None:
    rig.runtime.apply(app())
    seen = until(rig, lambda seen: seen.app_status == "RUNNING" and not seen.deployments)
    assert seen.root_is_current
    assert seen.cluster.total_gpus == 8


def test_what_was_applied_can_be_observed(rig: Rig) -> None:
    a = workload("alice", replicas=2)
    rig.runtime.apply(app(a))
    seen = until(rig, is_up(a))
    found = seen.deployments[a.model_key]
    assert (found.version, found.target_replicas, found.running) == ("v1", 2, 2)
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_nothing_that_happens_to_one_model_touches_another(rig: Rig) -> None:
    a, b = workload("alice"), workload("bob")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes = rig.pids(a.model_key)
    assert len(processes) == 1

    def untouched() -> bool:
        return rig.pids(a.model_key) == processes

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


def test_applying_again_changes_nothing(rig: Rig) -> None:
    a = workload("alice")
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    assert rig.pids(a.model_key) == processes


def test_who_begins_anew_observes_what_was_asked_of_each_model_and_not_what_still_answers(rig: Rig) -> None:
    """What a new ledger recognises models by (`core.recognition`): the key, the version, the number of replicas."""
    a, b = workload("alice", version="n1", replicas=2), workload("bob", version="n1")
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    until(rig, is_up(b))
    never = workload("bob", version="n2", source="endless")
    rig.runtime.apply(app(a, never))
    rig.begin_anew()
    seen = until(rig, lambda seen: is_at(never, seen) == "loading").deployments
    assert seen.keys() == {a.model_key, b.model_key}
    found, loads = seen[a.model_key], seen[b.model_key]
    assert (found.version, found.target_replicas, found.health) == ("n1", 2, Health.HEALTHY)
    assert (loads.version, loads.target_replicas, loads.health) == ("n2", 1, Health.STARTING)
    assert loads.running == 1, "the old version answers still"
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a, b))
    until(rig, is_up(b))
    assert rig.pids(a.model_key) == processes
    rig.runtime.apply(app())
    until(rig, gone(a))
    until(rig, gone(b))


def test_what_somebody_else_does_to_the_application_is_observed_and_can_be_put_right(rig: Rig) -> None:
    a, b = workload("alice", version="t1"), workload("bob", version="t1")
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    before = until(rig, is_up(b))
    processes = rig.pids(a.model_key)
    rig.tamper(replace(a, num_replicas=2), workload("eve", version="t1"))  # one scaled, one deleted, one from nowhere
    seen = until(rig, lambda seen: seen.deployments[a.model_key].target_replicas == 2)
    living = {key for key, each in seen.deployments.items() if each.health is not Health.STOPPING}
    assert living == {a.model_key, workload("eve").model_key}
    assert seen.root_is_current
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    until(rig, is_up(b))
    assert rig.pids(a.model_key) & processes

    rig.delete_app()
    seen = until(rig, lambda seen: seen.app_status in {None, "DELETING"})
    assert all(each.health is Health.STOPPING for each in seen.deployments.values())
    rig.runtime.apply(app(a, b))
    until(rig, is_up(a))
    after = until(rig, is_up(b))
    assert (after.session, after.root) == (before.session, before.root), "Ray's head is the same"
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_a_model_that_starts_says_how_far_it_is(rig: Rig) -> None:
    never, then = workload("alice", version="p1", source="endless"), workload("alice", version="p2")
    rig.runtime.apply(app(never))
    until(rig, lambda seen: is_at(never, seen) == "loading")
    rig.runtime.apply(app(then))
    until(rig, is_up(then))
    assert rig.runtime.observe().deployments[then.model_key].phase is None


def is_at(model: Workload, seen: Observation) -> str | None:
    found = seen.deployments.get(model.model_key)
    return found.phase if found else None


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


def test_a_replica_without_room_waits_until_there_is_some(rig: Rig) -> None:
    a, b = workload("alice", gpus=8), workload("bob")
    rig.runtime.apply(app())
    until(rig, gone(a))
    rig.runtime.apply(app(a))
    until(rig, is_up(a))
    rig.runtime.apply(app(a, b))
    seen = until(rig, lambda seen: b.model_key in seen.deployments and seen.deployments[b.model_key].starting == 1)
    assert (seen.deployments[b.model_key].running, seen.cluster.free_gpus) == (0, 0)
    rig.runtime.apply(app(b))
    until(rig, is_up(b))
    rig.runtime.apply(app())
    until(rig, gone(b))


def test_a_model_that_goes_while_it_waits_for_room_is_gone_at_once(rig: Rig) -> None:
    """Serve would wait for the leave of a replica that has no process, for as long as others may drain."""
    a, wide = workload("alice"), workload("bob", gpus=9)  # of 8
    rig.runtime.apply(app(a, wide))
    until(rig, is_up(a))
    until(rig, lambda seen: seen.deployments[wide.model_key].starting == 1)
    processes = rig.pids(a.model_key)
    rig.runtime.apply(app(a))
    until(rig, gone(wide), LONGEST_S / 4)
    assert rig.pids(a.model_key) == processes
    rig.runtime.apply(app())
    until(rig, gone(a))


def test_a_surge_that_fits_at_its_worst_moment_is_completed(rig: Rig) -> None:
    """2 x 1 to 2 x 3: at the end the second new replica stands beside the last old one, 7 of 8 GPUs."""
    old, new = workload("alice", replicas=2), workload("alice", version="v2", replicas=2, gpus=3)
    assert surge_peak(old, new) == 7
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    rig.runtime.apply(app(new))
    until(rig, is_up(new))
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_surge_that_does_not_fit_at_its_worst_moment_stands_still(rig: Rig) -> None:
    """2 x 1 to 2 x 4: there the second new replica would make it 9 of 8, and no old one goes before it runs."""
    old, new = workload("alice", replicas=2), workload("alice", version="v2", replicas=2, gpus=4)
    assert surge_peak(old, new) == 9
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    first = rig.pids(old.model_key)

    def stands_still() -> bool:
        seen = rig.runtime.observe().deployments[old.model_key]
        return (seen.running, seen.starting, seen.stopping) == (2, 1, 0) and len(rig.pids(old.model_key) & first) == 1

    rig.runtime.apply(app(new))
    until(rig, lambda _seen: stands_still())
    for _ in range(5):
        rig.pause()
        assert stands_still()
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_rollout_without_surge_starts_what_is_missing_before_an_old_replica_goes(rig: Rig) -> None:
    """1 x 8 to 2 x 4 on 8 GPUs would never begin; with as many new replicas as there are old ones it does."""
    old, new = workload("alice", gpus=8), workload("alice", version="v2", replicas=2, gpus=4, surge=False)
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    before = rig.pids(old.model_key)
    rig.runtime.apply(app(new))
    until(rig, lambda seen: seen.deployments[old.model_key].starting == 1)
    for _ in range(5):
        rig.pause()
        assert rig.pids(old.model_key) == before
    first = replace(new, num_replicas=1)
    rig.runtime.apply(app(first))
    until(rig, is_up(first))
    rig.runtime.apply(app(new))
    until(rig, is_up(new))
    rig.runtime.apply(app())
    until(rig, gone(new))


def test_a_newer_version_takes_over_from_one_that_waits_for_room(rig: Rig) -> None:
    old = workload("alice", gpus=6)
    rig.runtime.apply(app(old))
    until(rig, is_up(old))
    before = rig.pids(old.model_key)
    rig.runtime.apply(app(workload("alice", version="v2", gpus=6)))
    until(rig, lambda seen: seen.deployments[old.model_key].starting == 1)
    newer = workload("alice", version="v3", gpus=2)
    assert rig.pids(old.model_key) == before
    rig.runtime.apply(app(newer))
    until(rig, is_up(newer))
    rig.runtime.apply(app())
    until(rig, gone(newer))


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_replica_that_is_known_takes_requests_from_fronts_only(serve_rig: ServeRig) -> None:
    a = workload("alice", version="w1")
    serve_rig.runtime.apply(app(a))
    (replica,) = serve_rig.heard.until(serve_rig.heard.of(a))
    assert httpx.get(f"http://{replica.address}{HEALTH_PATH}").status_code == 200
    answer = serve_rig.ask(replica, prompt="Hello")
    assert (answer.status_code, answer.headers[KEY_HEADER]) == (200, a.model_key)
    assert httpx.post(f"http://{replica.address}/v1/chat/completions", json={}).status_code == 403


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_an_update_never_leaves_a_model_without_a_known_replica(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    old, new = workload("alice", version="w1"), workload("alice", version="w2")
    serve_rig.runtime.apply(app(old))
    heard.until(heard.of(old))
    before = len(heard.sets)
    serve_rig.runtime.apply(app(new))
    heard.until(heard.of(new))
    assert all(heard.sets[before:])


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_load_that_is_overtaken_is_cancelled_and_not_waited_for(serve_rig: ServeRig) -> None:
    first, endless, newer = workload("alice", "c1"), workload("alice", "c2", source="endless"), workload("alice", "c3")
    serve_rig.runtime.apply(app(first))
    until(serve_rig, is_up(first))
    serve_rig.runtime.apply(app(endless))
    until(serve_rig, lambda seen: seen.deployments[endless.model_key].starting == 1)
    serve_rig.runtime.apply(app(newer))
    until(serve_rig, is_up(newer))
    until(serve_rig, lambda seen: seen.deployments[newer.model_key].stopping == 0)
    serve_rig.runtime.apply(app())
    until(serve_rig, gone(newer))


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_scaling_down_takes_a_replica_off_at_once_and_cuts_no_stream_of_it(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    two, one = workload("alice", version="w2", replicas=2), workload("alice", version="w2")
    serve_rig.runtime.apply(app(two))
    replicas = heard.until(heard.of(two))
    with ThreadPoolExecutor() as threads:
        streams = [threads.submit(serve_rig.ask, replica, chunks=100, every_s=0.1) for replica in replicas]
        serve_rig.runtime.apply(app(one))
        stays = heard.until(heard.of(one))
        assert set(stays) < set(replicas)
        assert not any(stream.done() for stream in streams), "the replica was still known when its stream had ended"
        for stream in streams:
            assert stream.result().text.count("number") == 100
            assert stream.result().text.endswith("data: [DONE]\n\n")
    until(serve_rig, is_up(one))
    until(serve_rig, lambda seen: seen.deployments[one.model_key].stopping == 0)
    (gone,) = set(replicas) - set(stays)
    with pytest.raises(httpx.ConnectError):
        serve_rig.ask(gone)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_deleted_model_is_not_known_any_more(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    a, b = workload("alice", version="w2"), workload("bob")
    serve_rig.runtime.apply(app(a, b))
    heard.until(heard.of(a, b))
    serve_rig.runtime.apply(app(a))
    heard.until(heard.of(a))
    until(serve_rig, gone(b))


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_replica_whose_process_dies_is_not_known_any_more_until_another_stands_in(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    a = workload("alice", version="w2")
    serve_rig.runtime.apply(app(a))
    (first,) = heard.until(heard.of(a))
    with pytest.raises(httpx.RemoteProtocolError):
        serve_rig.ask(first, die_after=0)
    heard.until(lambda known: first not in known)
    (second,) = heard.until(heard.of(a))
    assert second.name != first.name
    assert serve_rig.ask(second).status_code == 200


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_replica_whose_engine_hangs_is_replaced_with_all_its_processes(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    a = workload("alice", version="w2")
    serve_rig.runtime.apply(app(a))
    (first,) = heard.until(heard.of(a))
    engine = serve_rig.ask(first).json()["engine"]
    with pytest.raises(httpx.TransportError):
        serve_rig.ask(first, hang=True)
    heard.until(lambda known: first not in known)
    (second,) = heard.until(heard.of(a))
    assert second.name != first.name
    assert serve_rig.ask(second).status_code == 200
    assert not Path(f"/proc/{engine}").exists(), "a stopped process outlived its replica"


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_what_a_replica_waits_for_is_told_by_phases(serve_rig: ServeRig, tmp_path: Path) -> None:
    def phase(key: str) -> str | None:
        found = serve_rig.runtime.observe().deployments.get(key)
        return found.phase if found else None

    warm = workload("alice", version="w3", source=f"warm:{tmp_path}/go", surge=False)
    wide = replace(workload("bob", version="w3"), gpus_per_replica=9)  # of 8
    serve_rig.runtime.apply(app(warm, wide))
    until(serve_rig, lambda _seen: phase(warm.model_key) == "warming_up")
    until(serve_rig, lambda _seen: phase(wide.model_key) == "scheduling")
    (tmp_path / "go").touch()
    until(serve_rig, is_up(warm))
    assert phase(warm.model_key) is None
    serve_rig.runtime.apply(app())
    until(serve_rig, lambda seen: not seen.deployments)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_what_is_known_stays_while_the_controller_is_away_and_goes_on_afterwards(serve_rig: ServeRig) -> None:
    import ray

    heard = serve_rig.heard
    a, b = workload("alice", version="w2"), workload("bob")
    serve_rig.runtime.apply(app(a))
    known = heard.until(heard.of(a))
    before = len(heard.sets)
    ray.kill(serve_rig.controller(), no_restart=False)
    serve_rig.runtime.apply(app(a, b))
    heard.until(heard.of(a, b))
    assert all(set(known) <= set(replicas) for replicas in heard.sets[before:])
    serve_rig.runtime.apply(app(a))
    until(serve_rig, gone(b))


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_new_watch_reports_everything_at_once(serve_rig: ServeRig) -> None:
    from reconciler.shell.replicas import ReplicaWatch

    a, b = workload("alice", version="w2"), workload("bob")
    serve_rig.runtime.apply(app(a, b))
    known = serve_rig.heard.until(serve_rig.heard.of(a, b))
    again = Heard()
    watch = ReplicaWatch(again.take)
    watch.follow([a.model_key, b.model_key])
    assert again.until(lambda _known: True) == known
    watch.close()
    assert again.sets == [known]


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_changing_the_front_changes_the_root_and_no_model(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    a = workload("alice", version="w2")
    serve_rig.runtime.apply(app(a))
    until(serve_rig, is_up(a))
    known = heard.until(heard.of(a))
    processes, before = serve_rig.pids(a.model_key), len(heard.sets)
    assert not serve_rig.pids(ROOT), "a root that nobody enters has a process"
    assert not listens(serve_rig.serving.port)

    for front, has_process in [("ray", True), ("haproxy", False)]:
        serve_rig.stand_behind(front)
        assert not serve_rig.runtime.observe().root_is_current
        serve_rig.runtime.apply(app(a))
        until(
            serve_rig,
            lambda seen, has=has_process: seen.root_is_current and bool(serve_rig.pids(ROOT)) == has,  # type: ignore[misc]
        )
        until(serve_rig, lambda _seen, has=has_process: listens(serve_rig.serving.port) == has)  # type: ignore[misc]
        assert serve_rig.pids(a.model_key) == processes
    # Not equal: who watches again what is being removed hears of it once more.
    assert all(set(known) <= set(replicas) for replicas in heard.sets[before:]), heard.sets[before:]


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_nothing_that_happens_to_a_model_touches_the_ingress(serve_rig: ServeRig) -> None:
    a, b = workload("alice", version="w2"), workload("bob")
    serve_rig.stand_behind("ray")
    serve_rig.runtime.apply(app(a))
    until(serve_rig, lambda seen: is_up(a)(seen) and bool(serve_rig.pids(ROOT)))
    ingress = serve_rig.pids(ROOT)
    for workloads in [(a, b), (a, workload("bob", version="v2", replicas=2)), (a,)]:
        serve_rig.runtime.apply(app(*workloads))
        until(serve_rig, lambda seen, last=workloads[-1]: is_up(last)(seen) and seen.root_is_current)  # type: ignore[misc]
        assert serve_rig.pids(ROOT) == ingress
    until(serve_rig, gone(b))
    assert serve_rig.pids(ROOT) == ingress


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_serve_that_somebody_has_shut_down_is_lost_and_the_next_process_starts_it_anew(serve_rig: ServeRig) -> None:
    """Last of all: what this process's watch holds of the controller is dead afterwards."""
    from ray import serve

    a = workload("alice", version="w3")
    serve_rig.stand_behind("haproxy")
    serve_rig.runtime.apply(app(a))
    session = until(serve_rig, is_up(a)).session
    serve.shutdown()
    with pytest.raises(RuntimeLost, match="shut down by somebody else"):
        serve_rig.runtime.observe()
    serve_rig.stand_behind("haproxy")
    seen = serve_rig.runtime.observe()
    assert (seen.app_status, seen.session) == (None, session)
    serve_rig.runtime.apply(app(a))
    until(serve_rig, is_up(a))
