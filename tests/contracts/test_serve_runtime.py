"""What real Ray Serve promises besides: which replicas are known to fronts, when, and what becomes of their streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from reconciler.core.routes import Route, RoutingTable, Target, Unavailable
from reconciler.core.wire import HEALTH_PATH, KEY_HEADER
from reconciler.errors import RuntimeLost
from tests.contracts.runtime_rigs import LONGEST_S, Heard, ServeRig, app, gone, is_up, until, workload
from tests.contracts.toy_replica import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ROOT = "argus-ingress"


def listens(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=10)
    except httpx.ConnectError:
        return False
    return True


def test_a_replica_that_is_known_takes_requests_from_fronts_only(serve_rig: ServeRig) -> None:
    a = workload("alice", version="w1")
    serve_rig.runtime.apply(app(a))
    (replica,) = serve_rig.heard.until(serve_rig.heard.of(a))
    assert httpx.get(f"http://{replica.address}{HEALTH_PATH}").status_code == 200
    answer = serve_rig.ask(replica, prompt="Hello")
    assert (answer.status_code, answer.headers[KEY_HEADER]) == (200, a.model_key)
    assert httpx.post(f"http://{replica.address}/v1/chat/completions", json={}).status_code == 403


def test_an_update_never_leaves_a_model_without_a_known_replica(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    old, new = workload("alice", version="w1"), workload("alice", version="w2")
    serve_rig.runtime.apply(app(old))
    heard.until(heard.of(old))
    before = len(heard.sets)
    serve_rig.runtime.apply(app(new))
    heard.until(heard.of(new))
    assert all(heard.sets[before:])


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


def test_a_deleted_model_is_not_known_any_more(serve_rig: ServeRig) -> None:
    heard = serve_rig.heard
    a, b = workload("alice", version="w2"), workload("bob")
    serve_rig.runtime.apply(app(a, b))
    heard.until(heard.of(a, b))
    serve_rig.runtime.apply(app(a))
    heard.until(heard.of(a))
    until(serve_rig, gone(b))


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


def test_rays_front_ends_the_answers_it_has_begun_before_the_application_is_gone(serve_rig: ServeRig) -> None:
    from reconciler.shell.kv_board import KvBoard

    a = workload("alice", version="w2")
    serve_rig.stand_behind("ray")
    serve_rig.runtime.apply(app(a))
    (replica,) = serve_rig.heard.until(serve_rig.heard.of(a))
    loading = Unavailable("model_loading", "is still loading", 10)
    route = Route(a.model_id, a.model_key, "alice", 0, loading, (Target(replica.name, replica.address, "c1"),))
    KvBoard().publish(RoutingTable(serve_rig.runtime.secret, (route,)))
    url = f"http://127.0.0.1:{serve_rig.serving.port}/v1/chat/completions"

    begun = threading.Event()

    def ask(chunks: int) -> str:
        body = {"model": a.model_id, "chunks": chunks, "every_s": 0.1}
        with httpx.stream("POST", url, json=body, timeout=LONGEST_S) as answer:
            text = ""
            for piece in answer.raise_for_status().iter_text():
                begun.set()
                text += piece
        return text

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return bool(ask(1))
        return False

    wait_for(answers, "the front answers", LONGEST_S)
    begun.clear()
    with ThreadPoolExecutor() as threads:
        long = threads.submit(ask, 80)
        assert begun.wait(LONGEST_S)
        assert not serve_rig.runtime.drain(0.5), "it did not wait for the stream"
        assert not long.done()
        assert serve_rig.runtime.drain(LONGEST_S)
        assert long.result().count("number") == 80
        assert long.result().endswith("data: [DONE]\n\n")
    assert not answers()
    until(serve_rig, lambda seen: seen.app_status is None)


# As vLLM's engine core on GPUs: a process below a replica, which has Ray start its workers.
ENGINE = """
import os, sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=0)
class Worker:
    def pid(self):
        return os.getpid()
worker = Worker.remote()
print(ray.get(worker.pid.remote()), flush=True)
sys.stdin.read()
"""


def test_workers_that_ray_started_for_an_engine_are_known_to_its_replica_and_end_with_it(serve_rig: ServeRig) -> None:
    import ray

    from reconciler.shell import below, ray_workers

    for module in (below, ray_workers):
        ray.cloudpickle.register_pickle_by_value(module)

    class Replica:
        def start(self, address: str) -> int:
            argv = [sys.executable, "-c", ENGINE, address]
            self.engine = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self.engine.stdout is not None
            return int(self.engine.stdout.readline())

        def workers(self) -> list[int]:
            return [each.pid for each in ray_workers.ray_workers(below.processes_below())]

        def end(self) -> None:
            below.end_below()

    kind = ray.remote(num_cpus=0)(Replica)
    one, other = kind.remote(), kind.remote()
    mine, others = ray.get([each.start.remote(serve_rig.address) for each in (one, other)], timeout=LONGEST_S)
    assert ray.get(one.workers.remote(), timeout=LONGEST_S) == [mine]
    os.kill(mine, signal.SIGSTOP)  # as one that hangs
    ray.get(one.end.remote(), timeout=LONGEST_S)
    wait_for(lambda: not Path(f"/proc/{mine}").exists(), "the stopped worker ends", LONGEST_S)
    assert ray.get([each.workers.remote() for each in (one, other)], timeout=LONGEST_S) == [[], [others]]


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
