"""What a user of the OpenAI port sees on the wire, whichever front stands there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from reconciler.core.routes import Unavailable
from reconciler.core.wire import COMMIT_HEADER, INFERENCE, KEY_HEADER, SECRET_HEADER
from tests.contracts.front_rigs import RIGS, SECRET, FrontRig, key_of, route
from tests.contracts.toy_replica import LIMIT_S, Replica, Stage, wait_for

CHAT = "/v1/chat/completions"
MODEL, OTHER = "alice-202601061230-qwen", "bob-202601061231-tiny"


@pytest.fixture(
    scope="module", params=["haproxy", pytest.param("ray", marks=[pytest.mark.engine, pytest.mark.timeout(300)])]
)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontRig]:
    with RIGS[request.param](tmp_path_factory.mktemp("front")) as opened:
        yield opened


@pytest.fixture(scope="module")
def _stage() -> Iterator[Stage]:
    opened = Stage()
    yield opened
    opened.close()


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    yield _stage
    _stage.clear()


@pytest.fixture
def client(rig: FrontRig) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=rig.base_url, timeout=LIMIT_S) as opened:
        yield opened


def replica(stage: Stage, model: str = MODEL) -> Replica:
    return stage.replica(key_of(model), SECRET)


def ask(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": MODEL, **body})


def error(answer: httpx.Response) -> tuple[int, str]:
    """Give status and code, and hold the answer to OpenAI's form of an error."""
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert body["error"]["type"] == ("invalid_request_error" if answer.status_code < 500 else "server_error")
    return answer.status_code, body["error"]["code"]


def raw(rig: FrontRig, request: bytes, wait: bool = True) -> socket.socket:
    """Send bytes as they are."""
    url = httpx.URL(rig.base_url)
    connection = socket.create_connection((url.host, url.port or 80), timeout=LIMIT_S)
    connection.sendall(request)
    if wait:
        connection.settimeout(LIMIT_S)
    return connection


def status_of(connection: socket.socket) -> int:
    with connection.makefile("rb") as file:
        return int(file.readline().split()[1])


class TestTheWayToAModel:
    def test_a_request_reaches_a_replica_of_the_model_that_it_names(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one, two = replica(stage), replica(stage, OTHER)
        rig.show(route(MODEL, one), route(OTHER, two))
        for model, its in ((MODEL, one), (OTHER, two)):
            assert ask(client, model=model).json()["replica"] == its.name

    @pytest.mark.parametrize("path", sorted(INFERENCE))
    def test_every_path_of_inference_reaches_it_with_body_and_query_unchanged(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, path: str
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        body = b' {"messages": [{"role": "user", "content": "h\\u00e9 \xc3\xa9"}],  "model": "%s"}' % MODEL.encode()
        answer = client.post(f"{path}?a=1&b=%20", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
        (seen,) = one.seen
        assert (seen["path"], seen["query"], seen["body"]) == (path, b"a=1&b=%20", body)
        assert seen["headers"]["content-type"] == "application/json"

    @pytest.mark.parametrize("length", [100, 40_000, 200_000, 3_000_000])
    def test_the_name_may_stand_behind_a_body_of_any_length(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, length: int
    ) -> None:
        rig.show(route(MODEL, replica(stage)), route(OTHER))
        body = json.dumps({"messages": "x" * length, "model": MODEL})
        assert client.post(CHAT, content=body).json()["bytes"] == len(body)

    def test_the_longest_body_is_taken(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        rig.show(route(MODEL, replica(stage)))
        empty = len(json.dumps({"messages": "", "model": MODEL}))
        body = json.dumps({"messages": "x" * (rig.max_body_bytes - empty), "model": MODEL})
        assert len(body) == rig.max_body_bytes
        answer = client.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["bytes"]) == (200, len(body))

    @pytest.mark.parametrize("length", [10, 30_000, 200_000])
    def test_a_body_may_come_in_chunks(self, rig: FrontRig, stage: Stage, client: httpx.Client, length: int) -> None:
        rig.show(route(MODEL, replica(stage)))
        body = json.dumps({"messages": "x" * length, "model": MODEL}).encode()
        answer = client.post(CHAT, content=iter([body[:7], body[7:-3], body[-3:]]))
        assert answer.json()["bytes"] == len(body)

    @pytest.mark.parametrize(
        "body",
        [
            {"messages": json.loads("[" * 60 + "]" * 60), "model": MODEL},
            '{"model": "' + "".join(f"\\u{ord(letter):04x}" for letter in MODEL) + '"}',
            '{"mod\\u0065l": "' + MODEL + '"}',
        ],
        ids=["deep", "escaped name", "escaped key"],
    )
    def test_json_is_understood_however_it_is_written(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, body: Any
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one), route(OTHER))
        answer = client.post(CHAT, content=body if isinstance(body, str) else json.dumps(body))
        assert (answer.status_code, answer.json()["replica"]) == (200, one.name)

    @pytest.mark.parametrize("body", [{}, {"model": None}])
    def test_where_there_is_one_model_it_need_not_be_named(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, body: Any
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        assert client.post(CHAT, json=body).json()["replica"] == one.name

    def test_a_replica_learns_nothing_of_who_asks(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        told = {
            "Authorization": "Bearer sk-secret",
            "Cookie": "session=1",
            "X-User-Id": "mallory",
            "X-Forwarded-For": "10.0.0.1",
            "X-Forwarded-User": "mallory",
            "X-Remote-User": "mallory",
            "Forwarded": "for=10.0.0.1",
            "X-Argus-Model": OTHER,
            SECRET_HEADER: "guessed",
        }
        assert client.post(CHAT, json={"model": MODEL}, headers={**told, "X-Request-Id": "7"}).status_code == 200
        got = one.seen[0]["headers"]
        assert got[SECRET_HEADER] == SECRET
        assert not {name.lower() for name in told} & (got.keys() - {SECRET_HEADER})
        assert not [name for name in got if name.startswith("x-argus-") and name != SECRET_HEADER]
        assert got["x-request-id"] == "7"

    def test_an_answer_says_which_model_and_commit_gave_it_and_nothing_else_of_ours(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        for length in (10, 200_000):
            answer = ask(client, messages="x" * length)
            assert answer.headers[KEY_HEADER] == key_of(MODEL)
            assert answer.headers[COMMIT_HEADER] == f"commit-of-{one.name}"
            ours = {name for name in answer.headers if name.startswith("x-argus-")}
            assert ours == {KEY_HEADER, COMMIT_HEADER}
            assert answer.headers["x-other"] == "kept"
            assert answer.headers.get("server") == rig.server_header


class TestStreams:
    @pytest.mark.parametrize("length", [10, 200_000])
    def test_a_chunk_arrives_before_the_next_is_made(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, length: int
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        body = {"model": MODEL, "chunks": 5, "messages": "x" * length}
        with client.stream("POST", CHAT, json=body) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            events = (line for line in answer.iter_lines() if line)
            for number in range(5):
                one.let_go()
                assert next(events) == f"data: {one.name} {number}"
            assert list(events) == ["data: [DONE]"]

    def test_a_client_that_does_not_read_holds_up_no_other(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        body = json.dumps({"model": MODEL, "chunks": 20_000}).encode()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
        with closing(raw(rig, head + body)):
            wait_for(lambda: one.in_flight)
            one.let_go(20_000)
            assert ask(client).status_code == 200

    @pytest.mark.parametrize("body", [{"chunks": 3}, {"hold": True}, {"chunks": 3, "messages": "x" * 200_000}])
    def test_a_client_that_leaves_takes_its_request_with_it(
        self, rig: FrontRig, stage: Stage, body: dict[str, Any]
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        content = json.dumps({"model": MODEL, **body}).encode()
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(content))
        connection = raw(rig, head + content)
        wait_for(lambda: one.in_flight == 1, "the request arrives")
        connection.close()
        wait_for(lambda: one.in_flight == 0, "the request ends")
        assert one.left == 1

    def test_a_stream_whose_replica_dies_breaks_off_and_does_not_seem_whole(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(MODEL, one, two))
        with client.stream("POST", CHAT, json={"model": MODEL, "chunks": 5}) as answer:
            parts = answer.iter_raw()
            running = one if wait_for(lambda: one.in_flight or two.in_flight) and one.in_flight else two
            running.let_go()
            assert next(parts)
            running.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)


class TestReplicasThatGo:
    def test_a_request_without_an_answer_yet_is_taken_over_by_another_replica(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        replicas = [replica(stage), replica(stage)]
        rig.show(route(MODEL, *replicas))
        given: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: given.append(ask(client, hold=True)))
        asking.start()
        first = wait_for(lambda: next((one for one in replicas if one.in_flight), None), "the request arrives")
        other = replicas[1 - replicas.index(first)]
        other.release()
        first.kill()
        asking.join(LIMIT_S)
        assert (given[0].status_code, given[0].json()["replica"]) == (200, other.name)

    def test_no_request_fails_while_one_of_two_replicas_dies(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one, two = replica(stage), replica(stage)
        rig.show(route(MODEL, one, two))
        statuses = [ask(client).status_code for _ in range(20)]
        one.kill()
        statuses += [ask(client).status_code for _ in range(100)]
        assert set(statuses) == {200}

    def test_where_every_replica_is_gone_it_is_said_so_that_clients_try_again(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        one.kill()
        for length in (10, 200_000):
            answer = ask(client, messages="x" * length)
            assert error(answer) == (503, "replica_lost")
            assert int(answer.headers["retry-after"]) > 0

    @pytest.mark.parametrize("length", [10, 200_000])
    def test_a_request_whose_only_replica_dies_is_told_so_also_on_a_connection_that_was_used(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, length: int
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        for _ in range(3):
            assert ask(client, messages="x" * length).status_code == 200
        given: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: given.append(ask(client, hold=True, messages="x" * length)))
        asking.start()
        wait_for(lambda: one.in_flight, "the request arrives")
        one.kill()
        asking.join(LIMIT_S)
        assert error(given[0]) == (503, "replica_lost")

    def test_what_a_replica_says_of_a_request_is_what_the_client_gets(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        rig.show(route(MODEL, replica(stage)))
        for status in (400, 404, 422, 429, 500):
            assert ask(client, status=status).status_code == status


class TestWhatNoModelAnswers:
    def test_a_model_that_does_not_exist(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        rig.show(route(MODEL, replica(stage)))
        assert error(ask(client, model="nobody")) == (404, "model_not_found")
        assert error(ask(client, model="nobody", messages="x" * 200_000)) == (404, "model_not_found")

    def test_a_model_that_is_not_ready_says_why_and_when_to_come_back(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        why = Unavailable("model_loading", "is still loading", 7)
        rig.show(route(MODEL, unavailable=why), route(OTHER, replica(stage, model=OTHER)))
        answer = ask(client)
        assert error(answer) == (503, "model_loading")
        assert answer.json()["error"]["message"] == f"the model `{MODEL}` is still loading"
        assert answer.headers["retry-after"] == "7"
        assert error(client.get(f"/v1/models/{MODEL}")) == (503, "model_loading")

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ("{}", "model_required"),
            ('{"model": null}', "model_required"),
            ('{"model": 5}', "invalid_model"),
            ('{"model": ["a"]}', "invalid_model"),
            ('{"model": {"model": "a"}}', "invalid_model"),
            ("[]", "invalid_json"),
            ("", "invalid_json"),
            ('{"model": ', "invalid_json"),
            ("\x00\xff", "invalid_json"),
            ("[" * 30_000, "invalid_json"),
        ],
    )
    def test_a_body_that_names_no_model(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, body: str, code: str
    ) -> None:
        rig.show(route(MODEL, replica(stage)), route(OTHER))
        assert error(client.post(CHAT, content=body.encode("latin-1"))) == (400, code)

    @pytest.mark.parametrize("name", ["a\r\nx-argus-front: b", "a/../b", "m0", "m0/x", "", " ", "x" * 3000, "é"])
    def test_a_name_that_is_none_does_no_harm(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, name: str
    ) -> None:
        rig.show(route(MODEL, replica(stage)), route(OTHER))
        for length in (1, 200_000):
            assert error(ask(client, model=name, messages="x" * length)) == (404, "model_not_found")

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/pause",
            "/metrics",
            "/server_info",
            "/v1/load_lora_adapter",
            "/invocations",
            "/v1/files",
            "/v1//chat/completions",
            "/v1/chat/completions/",
            "/v1/../pause",
            "/-/ready",
            "/V1/chat/completions",
        ],
    )
    def test_paths_beyond_inference_reach_no_engine(
        self, rig: FrontRig, stage: Stage, client: httpx.Client, path: str
    ) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        url = httpx.URL(rig.base_url).copy_with(raw_path=path.encode())
        assert error(client.post(url, json={"model": MODEL})) == (404, "not_found")
        assert client.get(url).status_code == 404
        assert not one.seen

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_inference_is_by_post_alone(self, rig: FrontRig, stage: Stage, client: httpx.Client, method: str) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        answer = client.request(method, CHAT)
        assert error(answer) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        assert not one.seen

    def test_options_names_the_methods_and_lets_no_other_origin_in(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        rig.show(route(MODEL, replica(stage)))
        answer = client.options(CHAT, headers={"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"})
        assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
        assert "access-control-allow-origin" not in answer.headers

    def test_a_body_that_is_declared_too_long_is_refused_before_it_is_sent(self, rig: FrontRig, stage: Stage) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % (CHAT.encode(), rig.max_body_bytes + 1)
        with closing(raw(rig, head)) as connection:
            assert status_of(connection) == 413
        assert not one.seen

    def test_a_body_that_turns_out_too_long_is_refused(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        one = replica(stage)
        rig.show(route(MODEL, one))

        def parts() -> Iterator[bytes]:
            yield b'{"model": "%s", "messages": "' % MODEL.encode()
            for _ in range(rig.max_body_bytes // 50_000 + 1):
                yield b"x" * 50_000
            yield b'"}'

        assert error(client.post(CHAT, content=parts())) == (413, "request_too_large")
        assert not one.seen


class TestTheListOfModels:
    def test_it_names_the_models_that_answer(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        rig.show(route(MODEL, replica(stage)), route(OTHER))
        card = {"id": MODEL, "object": "model", "created": 1_767_702_600, "owned_by": "alice"}
        assert client.get("/v1/models").json() == {"object": "list", "data": [card]}
        assert client.get(f"/v1/models/{MODEL}?x=1").json() == card
        assert error(client.get("/v1/models/nobody")) == (404, "model_not_found")
        assert error(client.get("/v1/models/a%2Fb")) == (404, "model_not_found")
        assert error(client.get("/v1/models/")) == (404, "model_not_found")
        assert error(client.get("/v1//models")) == (404, "not_found")

    def test_head_says_what_get_would_and_nothing_else_is_taken(
        self, rig: FrontRig, stage: Stage, client: httpx.Client
    ) -> None:
        rig.show(route(MODEL, replica(stage)))
        head, got = client.head("/v1/models"), client.get("/v1/models")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
        refused = client.post("/v1/models", json={})
        assert error(refused) == (405, "method_not_allowed")
        assert refused.headers["allow"] == "GET"

    def test_a_table_may_have_thousands_of_names(self, rig: FrontRig, stage: Stage, client: httpx.Client) -> None:
        many = [route(f"user{number:04}-202601061230-m") for number in range(2000)]
        rig.show(route(MODEL, replica(stage)), *many)
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [MODEL]
        assert ask(client).status_code == 200
        assert error(ask(client, model=many[7].model_id)) == (503, "model_loading")
