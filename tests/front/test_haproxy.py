"""HAProxy, its router and the board: who may die, and what nobody notices of it."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.front import config, sync
from reconciler.front.admin import Admin, FrontUnreachable, Refused
from reconciler.front.sync import Held, PutEntry
from tests.contracts.front_rigs import SECRET, HaproxyRig, haproxy_rig, key_of, route, table
from tests.contracts.toy_replica import LIMIT_S, Replica, Stage, wait_for

CHAT = "/v1/chat/completions"
A, B = "alice-202601061230-a", "bob-202601061231-b"


def replica(stage: Stage, model: str = A) -> Replica:
    return stage.replica(key_of(model), SECRET)


def ask(rig: HaproxyRig, model: str = A, **body: Any) -> httpx.Response:
    return httpx.post(rig.base_url + CHAT, json={"model": model, **body}, timeout=LIMIT_S)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def held(rig: HaproxyRig) -> Held:
    with Admin(rig.folder).talk() as talk:
        return talk.held()


def names(rig: HaproxyRig) -> set[str]:
    return {place.name for place in held(rig).servers}


@contextmanager
def streaming(rig: HaproxyRig, one: Replica, model: str = A, chunks: int = 3) -> Iterator[Iterator[str]]:
    """Begin a stream at `one`, and give its events; its chunks are let go by the test."""
    with (
        httpx.Client(timeout=LIMIT_S) as client,
        client.stream("POST", rig.base_url + CHAT, json={"model": model, "chunks": chunks}) as answer,
    ):
        wait_for(lambda: one.in_flight, "the stream begins")
        yield (line for line in answer.iter_lines() if line)


def figure(rig: HaproxyRig, name: str, **labels: str) -> float | None:
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"http://127.0.0.1:{rig.metrics_port}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


class TestReplicas:
    def test_the_least_busy_replica_gets_a_request(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one, two))
        threads = [threading.Thread(target=ask, args=(rig, A), kwargs={"hold": True}) for _ in range(6)]
        for thread in threads:
            thread.start()
        wait_for(lambda: one.in_flight + two.in_flight == 6)
        assert (one.in_flight, two.in_flight) == (3, 3)
        one.release()
        wait_for(lambda: one.in_flight == 0)
        assert {ask(rig).json()["replica"] for _ in range(5)} == {one.name}
        two.release()
        for thread in threads:
            thread.join(LIMIT_S)

    def test_a_replica_that_was_added_takes_requests_at_once(self, rig: HaproxyRig, stage: Stage) -> None:
        rig.show(route(A))
        one = replica(stage)
        rig.show(route(A, one))
        assert ask(rig).json()["replica"] == one.name

    def test_a_killed_replica_is_soon_out(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one, two))
        wait_for(lambda: figure(rig, "argus_front_replicas_up") == 2)
        one.kill()
        wait_for(lambda: figure(rig, "argus_front_replicas_up") == 1, "the dead one is out", limit_s=5)

    def test_a_drained_replica_takes_no_new_request_and_finishes_its_streams(
        self, rig: HaproxyRig, stage: Stage
    ) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one))
        with streaming(rig, one) as events:
            rig.show(route(A, two))
            assert {ask(rig).json()["replica"] for _ in range(5)} == {two.name}
            assert names(rig) == {one.name, two.name}
            one.let_go(3)
            assert list(events)[-1] == "data: [DONE]"
        one.kill()
        wait_for(lambda: names(rig) == {two.name}, "it is deleted when its stream is through")
        wait_for(lambda: held(rig).maps[sync.COMMITS_MAP].keys() == {two.name})

    def test_a_replica_that_says_404_for_its_health_drains(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one, two))
        body = {"model": A, "chunks": 3}
        with httpx.stream("POST", rig.base_url + CHAT, json=body, timeout=LIMIT_S) as answer:
            busy = wait_for(lambda: next((each for each in (one, two) if each.in_flight), None))
            busy.health = 404
            wait_for(lambda: figure(rig, "argus_front_replicas_up") == 1, "it drains")
            assert busy.name not in {ask(rig).json()["replica"] for _ in range(5)}
            busy.let_go(3)
            assert [line for line in answer.iter_lines() if line][-1] == "data: [DONE]"

    def test_a_replica_whose_engine_is_dead_hands_its_request_to_another(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        one.dead = True
        rig.show(route(A, one, two))
        assert {(ask(rig).status_code, ask(rig).json()["replica"]) for _ in range(6)} == {(200, two.name)}

    def test_a_stream_does_not_notice_what_becomes_of_other_models(self, rig: HaproxyRig, stage: Stage) -> None:
        one, others = replica(stage), [replica(stage, B) for _ in range(3)]
        rig.show(route(A, one))
        with streaming(rig, one, chunks=50) as events:
            for number in range(50):
                shown = others[: number % 4]
                rig.board.publish(table(route(A, one), *([route(B, *shown)] if shown else [])))
                one.let_go()
                assert next(events) == f"data: {one.name} {number}"
                time.sleep(0.02)  # rounds come every 0.1 s: some tables are seen, some are passed over
            assert list(events) == ["data: [DONE]"]
        rig.show(route(A, one), route(B, others[0]))
        assert ask(rig, B).json()["replica"] == others[0].name

    def test_requests_wait_for_a_place_and_are_told_when_it_takes_too_long(self, tmp_path: Path, stage: Stage) -> None:
        one = replica(stage)
        serving = {"llm": {"max_ongoing_requests": 1}, "haproxy": {"queue_timeout_s": 1}}
        with haproxy_rig(tmp_path / "home", **serving) as rig:
            rig.show(route(A, one))
            first = threading.Thread(target=ask, args=(rig, A), kwargs={"hold": True})
            first.start()
            wait_for(lambda: one.in_flight == 1)
            answer = ask(rig)
            assert code(answer) == (503, "model_busy")
            assert int(answer.headers["retry-after"]) > 0
            second = threading.Thread(target=ask, args=(rig, A))
            second.start()
            wait_for(lambda: figure(rig, "argus_front_queue_length") == 1)
            one.release()
            for thread in (first, second):
                thread.join(LIMIT_S)
            assert len(one.seen) == 2


class TestWhoMayDie:
    def test_haproxy_comes_back_with_the_last_table_while_everybody_else_is_away(
        self, rig: HaproxyRig, stage: Stage
    ) -> None:
        one, two = replica(stage), replica(stage, B)
        rig.show(route(A, one), route(B, two))
        rig.stop_router()
        rig.kill_haproxy()
        rig.start_haproxy()
        answer = ask(rig)
        assert (answer.status_code, answer.json()["replica"]) == (200, one.name)
        assert answer.headers["x-argus-commit"] == f"commit-of-{one.name}"
        assert ask(rig, B, messages="x" * 200_000).json()["replica"] == two.name
        away = httpx.get(rig.base_url + "/v1/models")
        assert code(away) == (503, "starting")
        assert away.headers["retry-after"]

    def test_haproxy_that_comes_back_is_told_what_it_missed(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one))
        rig.kill_haproxy()
        rig.board.publish(table(route(A, two)))
        rig.start_haproxy()
        wait_for(lambda: names(rig) == {two.name})
        assert ask(rig).json()["replica"] == two.name

    def test_a_restart_of_the_router_touches_no_stream(self, rig: HaproxyRig, stage: Stage) -> None:
        one = replica(stage)
        rig.show(route(A, one))
        with streaming(rig, one) as events:
            rig.stop_router()
            one.let_go()
            assert next(events) == f"data: {one.name} 0"
            assert ask(rig).status_code == 200
            rig.start_router()
            one.let_go(2)
            assert list(events)[-1] == "data: [DONE]"
        assert names(rig) == {one.name}
        assert len(httpx.get(rig.base_url + "/v1/models").json()["data"]) == 1

    def test_long_requests_are_answered_also_while_the_second_haproxy_is_away(
        self, rig: HaproxyRig, stage: Stage
    ) -> None:
        one = replica(stage)
        rig.show(route(A, one), route(B))
        rig.kill_haproxy(config.BODIES)
        for _ in range(3):
            assert ask(rig, messages="x" * 200_000).json()["replica"] == one.name
        body = {"model": A, "chunks": 2, "messages": "x" * 200_000}
        with httpx.stream("POST", rig.base_url + CHAT, json=body, timeout=LIMIT_S) as answer:
            lines = (line for line in answer.iter_lines() if line)
            one.let_go()
            assert next(lines) == f"data: {one.name} 0"
            one.let_go()
            assert list(lines)[-1] == "data: [DONE]"
        rig.start_haproxy(config.BODIES)
        assert ask(rig, messages="x" * 200_000).status_code == 200

    def test_while_the_board_is_away_the_last_table_stays(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one))
        rig.board.away = True
        ready = wait_for(lambda: (said := httpx.get(rig.base_url + "/readyz").json())["trouble"] and said)
        assert ready["trouble"] == "the board is away"
        assert ready["status"] == "ready"
        assert figure(rig, "argus_front_board_reachable") == 0
        assert ask(rig).json()["replica"] == one.name
        rig.board.away = False
        rig.show(route(A, two))
        assert ask(rig).json()["replica"] == two.name

    def test_before_a_table_is_known_the_front_says_that_it_starts(self, rig: HaproxyRig) -> None:
        ready = httpx.get(rig.base_url + "/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"]
        assert httpx.get(rig.base_url + "/healthz").status_code == 200
        assert code(ask(rig)) == (503, "starting")
        assert code(ask(rig, messages="x" * 200_000)) == (503, "starting")

    def test_what_somebody_did_at_the_admin_socket_is_healed(self, rig: HaproxyRig, stage: Stage) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(A, one))
        (place,) = held(rig).servers
        with Admin(rig.folder).talk() as talk:
            talk.ask(
                f"set server m{place.slot}/{place.name} state maint",
                f"del map {sync.MODELS_MAP} {A}",
                f"add map {sync.MODELS_MAP} stranger m3/svc-stranger",
                f"add map {sync.SECRET_MAP} {sync.SECRET_KEY} twice",
                "add server m5/stray 127.0.0.1:9",
            )
        rig.show(route(A, one), route(B, two))
        wait_for(lambda: names(rig) == {one.name, two.name})
        assert ask(rig).status_code == 200
        assert held(rig).maps[sync.MODELS_MAP].keys() == {A, B}


class TestSlots:
    def test_a_model_without_a_slot_is_told_so_and_gets_the_next_that_is_free(
        self, tmp_path: Path, stage: Stage, caplog: pytest.LogCaptureFixture
    ) -> None:
        models = [f"user-20260106123{number}-m" for number in range(3)]
        replicas = [replica(stage, model) for model in models]
        routes = [route(model, one) for model, one in zip(models, replicas, strict=True)]
        with haproxy_rig(tmp_path / "home", haproxy={"max_models": 2}) as rig:
            rig.board.publish(table(*routes))
            wait_for(lambda: len(held(rig).maps[sync.MODELS_MAP]) == 2)
            statuses = {model: ask(rig, model).status_code for model in models}
            assert sorted(statuses.values()) == [200, 200, 503]
            (late,) = (model for model, status in statuses.items() if status == 503)
            assert code(ask(rig, late)) == (503, "no_slot")
            assert "max_models is 2" in caplog.text
            assert figure(rig, "argus_front_models_without_slot") == 1
            gone = next(entry for entry in routes if entry.model_id != late)
            rig.show(*(entry for entry in routes if entry is not gone))
            assert ask(rig, late).status_code == 200

    def test_figures_are_the_models_own_also_in_a_slot_that_was_anothers(self, tmp_path: Path, stage: Stage) -> None:
        one, two = replica(stage), replica(stage, B)
        with haproxy_rig(tmp_path / "home", haproxy={"max_models": 1}) as rig:
            rig.show(route(A, one))
            for _ in range(5):
                ask(rig)
            assert figure(rig, "argus_front_requests_total", model_id=A, code="2xx") == 5
            rig.show(route(B, two))
            ask(rig, B)
            for _ in range(2):
                assert figure(rig, "argus_front_requests_total", model_id=B, code="2xx") == 1
                assert figure(rig, "argus_front_requests_total", model_id=A) is None
                rig.stop_router()
                rig.start_router()
                wait_for(lambda: figure(rig, "argus_front_board_reachable") == 1)
            rig.kill_haproxy()
            rig.start_haproxy()
            wait_for(lambda: figure(rig, "argus_front_requests_total", model_id=B, code="2xx") == 0)
            ask(rig, B)
            assert figure(rig, "argus_front_requests_total", model_id=B, code="2xx") == 1


class TestHaproxysOwnWords:
    def test_every_refusal_of_its_own_is_in_openais_form(self, tmp_path: Path, stage: Stage) -> None:
        one = replica(stage)
        with haproxy_rig(tmp_path / "home", idle_timeout_s=1) as rig:
            rig.show(route(A, one))
            assert code(ask(rig, hold=True)) == (504, "model_timeout")
            late = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % CHAT.encode()
            assert self._raw(rig, late) == (408, "request_timeout")

    @staticmethod
    def _raw(rig: HaproxyRig, request: bytes) -> tuple[int, str]:
        with closing(socket.create_connection(("127.0.0.1", rig.port), timeout=LIMIT_S)) as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/json" in head
        return int(head.split()[1]), json.loads(body)["error"]["code"]

    def test_its_log_names_the_model_and_nothing_that_a_client_sent(self, rig: HaproxyRig, stage: Stage) -> None:
        one = replica(stage)
        rig.show(route(A, one))
        ask(rig)
        one.kill()
        httpx.post(
            f"{rig.base_url}{CHAT}?q=hidden1",
            json={"model": A, "messages": "hidden2"},
            headers={"Authorization": "Bearer hidden3"},
        )
        assert wait_for(lambda: f"model={key_of(A)}" in rig.log())
        assert "status=200" not in rig.log()
        assert "hidden" not in rig.log()
        assert SECRET not in rig.log()


class TestSecrets:
    def test_only_the_owner_may_read_what_the_front_keeps(self, rig: HaproxyRig, stage: Stage) -> None:
        rig.show(route(A, replica(stage)))
        assert stat.S_IMODE(rig.folder.stat().st_mode) == 0o700
        kept = list(rig.folder.iterdir())
        assert {path.name for path in kept} >= {"state.json", "haproxy.cfg", "secret.map", "admin.sock", "desk.sock"}
        assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in kept} == {
            path.name: "0o600" for path in kept
        }

    def test_the_secret_is_on_no_command_line(self, rig: HaproxyRig, stage: Stage) -> None:
        rig.show(route(A, replica(stage)))
        for process in rig.processes.values():
            for part in ("cmdline", "environ"):
                assert SECRET.encode() not in Path(f"/proc/{process.pid}/{part}").read_bytes()

    def test_a_new_secret_counts_at_once(self, rig: HaproxyRig, stage: Stage) -> None:
        one = replica(stage)
        rig.show(route(A, one))
        one.secret = "another"
        assert ask(rig).status_code == 403
        rig.show_table(table(route(A, one), secret="another"))
        assert ask(rig).status_code == 200


class TestAdmin:
    def test_a_refusal_has_haproxys_words(self, rig: HaproxyRig) -> None:
        with Admin(rig.folder).talk() as talk, pytest.raises(Refused, match=r"add map nosuch.map k v: .+"):
            talk.take([PutEntry("nosuch.map", "k", "v", is_new=True)], "")

    def test_nobody_there_is_said_in_words(self, tmp_path: Path) -> None:
        with pytest.raises(FrontUnreachable, match="HAProxy does not answer"), Admin(tmp_path).talk():
            pass

    def test_one_that_hangs_is_not_waited_for_forever(self, tmp_path: Path) -> None:
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(tmp_path / "admin.sock"))
            listener.listen()
            with pytest.raises(FrontUnreachable), Admin(tmp_path, timeout_s=0.2).talk():
                pass
