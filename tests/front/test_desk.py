"""What the desk answers, over a real unix socket."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.core.routes import Name, Replica, Unavailable, routing_table
from reconciler.front.desk import Desk, DeskView
from reconciler.front.listening import serve, unix_socket

LOADING = Unavailable("model_loading", "is still loading", 10)
CHAT = "/v1/chat/completions"


def _name(number: int) -> Name:
    return Name(f"alice-m{number}", f"svc-{number}", "alice", 1_767_702_600, {"v": "c"}, LOADING)


UP = routing_table("secret", [_name(1), _name(2)], [Replica("r1", "svc-1", "v", "127.0.0.1:9")])


class Office:
    """A desk at work, whose view a test may change."""

    def __init__(self, folder: Path) -> None:
        self.view = DeskView(UP, read_at=time.monotonic())
        self.path = folder / "desk.sock"
        self._listener = unix_socket(folder, "desk.sock")
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(self.path)), base_url="http://desk")

    def _run(self) -> None:
        self._loop.run_until_complete(serve(Desk(lambda: self.view), self._listener, self._stop))

    def close(self) -> None:
        self.client.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def chat(self, **body: Any) -> httpx.Response:
        return self.client.post(CHAT, json=body)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    opened = Office(tmp_path)
    yield opened
    opened.close()


def _code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_only_its_owner_may_speak_to_it(office: Office) -> None:
    assert stat.S_IMODE(office.path.stat().st_mode) == 0o600


def test_it_speaks_with_the_words_of_every_front(office: Office) -> None:
    assert _code(office.chat(model="nobody")) == (404, "model_not_found")
    assert _code(office.chat()) == (400, "model_required")
    loading = office.chat(model="alice-m2")
    assert _code(loading) == (503, "model_loading")
    assert loading.headers["retry-after"] == "10"
    assert loading.headers["content-type"] == "application/json"
    assert _code(office.client.post("/pause")) == (404, "not_found")


def test_a_model_whose_replicas_are_all_down_is_lost_for_the_moment(office: Office) -> None:
    assert _code(office.chat(model="alice-m1")) == (503, "replica_lost")


def test_a_model_without_a_slot_says_what_to_change(office: Office) -> None:
    office.view = DeskView(UP, full=frozenset({"svc-1"}))
    answer = office.chat(model="alice-m1")
    assert _code(answer) == (503, "no_slot")
    assert "max_models" in answer.json()["error"]["message"]


def test_a_large_body_is_decided_as_a_small_one(office: Office) -> None:
    assert _code(office.chat(messages="x" * 3_000_000, model="nobody")) == (404, "model_not_found")
    assert _code(office.client.post(CHAT, content=b"[" * 3_000_000)) == (400, "invalid_json")


def test_thousands_of_models_are_listed_and_a_new_table_makes_a_new_list(office: Office) -> None:
    names = [_name(number) for number in range(3000)]
    replicas = [Replica(f"r{number}", f"svc-{number}", "v", "127.0.0.1:9") for number in range(3000)]
    office.view = DeskView(routing_table("secret", names, replicas))
    listed = office.client.get("/v1/models").json()["data"]
    assert len(listed) == 3000
    assert office.client.head("/v1/models").headers["content-length"] == str(
        len(office.client.get("/v1/models").content)
    )
    office.view = DeskView(UP)
    assert [model["id"] for model in office.client.get("/v1/models").json()["data"]] == ["alice-m1"]


def test_readiness_says_what_is_known_or_why_nothing_is(office: Office) -> None:
    ready = office.client.get("/readyz")
    assert ready.status_code == 200
    said = ready.json()
    assert (said["models"], said["models_answering"], said["replicas"], said["trouble"]) == (2, 1, 1, None)
    office.view = DeskView(None, trouble="the ledger is locked")
    starting = office.client.get("/readyz")
    assert (starting.status_code, starting.json()["reason"]) == (503, "the ledger is locked")
    assert _code(office.client.get("/v1/models")) == (503, "starting")


def test_options_names_the_methods_and_lets_no_other_origin_in(office: Office) -> None:
    answer = office.client.options(
        CHAT, headers={"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    )
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_its_socket_may_lie_deeper_than_a_unix_path_reaches(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / ("deeper" * 10)
    deep.mkdir(parents=True)
    for _ in range(2):  # the second takes the place of the first
        unix_socket(deep, "desk.sock").close()
    assert json.dumps(sorted(path.name for path in deep.iterdir())) == '["desk.sock"]'
