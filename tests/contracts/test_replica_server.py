"""What a replica's own server promises to fronts and to the engine behind it, over real connections."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.core import answers, routes, wire
from reconciler.shell import replica_server
from reconciler.shell.replica_server import Gate, Message, Receive, ReplicaServer, Scope, Send

SECRET = "a-secret-of-the-fronts"
KEY = "svc-alice-20261122-000000-abcd"
FRONT = {wire.SECRET_HEADER: SECRET}
ECHO = "/v1/completions"
STREAM = "/v1/chat/completions"
LIMIT_S = 20.0

CHUNKS = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]


class Engine:
    """An engine's app that says what reached it, and streams as far as it is let."""

    def __init__(self) -> None:
        self.alive = True
        self.go_on = asyncio.Event()
        self.streaming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == STREAM:
            await self._stream(receive, send)
        else:
            await self._echo(scope, receive, send)

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = 0
        more = True
        while more:
            message = await receive()
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
        body = json.dumps({"path": scope["path"], "headers": headers, "length": length}).encode()
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, receive: Receive, send: Send) -> None:
        self.streaming += 1
        try:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": CHUNKS[0], "more_body": True})
            gone, go_on = asyncio.ensure_future(receive()), asyncio.ensure_future(self.go_on.wait())
            await asyncio.wait({gone, go_on}, return_when=asyncio.FIRST_COMPLETED)
            go_on.cancel()
            if not gone.done():
                gone.cancel()
                await send({"type": "http.response.body", "body": CHUNKS[1], "more_body": True})
                await send({"type": "http.response.body", "body": CHUNKS[2]})
        finally:
            self.streaming -= 1


class Replica:
    """A running server, the engine behind it, and a front's client of it."""

    def __init__(self, engine: Engine, server: ReplicaServer, address: str, front: httpx.AsyncClient) -> None:
        self.engine = engine
        self.server = server
        self.address = address
        self.front = front

    async def health(self) -> int:
        return (await self.front.get(wire.HEALTH_PATH)).status_code

    async def until_streaming(self, streams: int) -> None:
        while self.engine.streaming != streams:  # noqa: ASYNC110  limited by `run`
            await asyncio.sleep(0.005)

    async def takes_connections(self) -> bool:
        try:
            _, writer = await self.connect()
        except ConnectionError:  # refused, or reset on its way in
            return False
        writer.close()
        return True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.address.rpartition(":")
        return await asyncio.open_connection(host, int(port))


@asynccontextmanager
async def a_replica(settle_s: float = 0.0, handover_s: float = LIMIT_S) -> AsyncIterator[Replica]:
    engine = Engine()
    server = ReplicaServer(
        engine,
        secret=SECRET,
        model_key=KEY,
        version="v1",
        is_healthy=lambda: engine.alive,
        settle_s=settle_s,
        handover_s=handover_s,
    )
    address = await server.start("127.0.0.1")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(
        base_url=f"http://{address}", headers=FRONT, trust_env=False, timeout=LIMIT_S, limits=limits
    )
    try:
        async with client:
            yield Replica(engine, server, address, client)
    finally:
        await server.drain(0)


def run(test: Callable[[], Awaitable[object]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), LIMIT_S)

    asyncio.run(limited())


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error


# --- who may come in, and where to -----------------------------------------------------------------------------------


def test_whoever_does_not_know_the_secret_is_refused() -> None:
    name = wire.SECRET_HEADER.encode()
    strangers: list[list[tuple[bytes, bytes]]] = [
        [],
        [(name, b"")],
        [(name, SECRET[:-1].encode())],
        [(name, SECRET.encode() + b"x")],
        [(name, SECRET.upper().encode())],
        [(name, b"\xff\xfe")],
        [(b"authorization", b"Bearer " + SECRET.encode())],
    ]

    async def test() -> None:
        async with a_replica() as replica, httpx.AsyncClient(trust_env=False) as client:
            for headers, path in itertools.product(strangers, (ECHO, "/metrics")):
                refused = await client.post(f"http://{replica.address}{path}", json={}, headers=headers)
                assert refused.status_code == 403, headers
                assert error_of(refused)["code"] == "front_only"
                assert wire.KEY_HEADER not in refused.headers

    run(test)


def test_what_a_front_sends_reaches_the_engine_without_the_secret() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            sent = [
                ("X-Request-Id", "r-1"),
                ("Accept", "a"),
                ("Accept", "b"),
                ("X-Data-Parallel-Rank", "3"),
                ("Endpoint-Load-Metrics-Format", "JSON"),
            ]
            answer = await replica.front.post(ECHO, content=b"x" * 1000, headers=sent)
            assert answer.status_code == 200
            got = [tuple(header) for header in answer.json()["headers"]]
            assert ("x-request-id", "r-1") in got
            assert [value for name, value in got if name == "accept"] == ["a", "b"]
            assert not {name for name, _ in got} & {
                wire.SECRET_HEADER,
                "x-data-parallel-rank",
                "endpoint-load-metrics-format",
            }
            assert answer.json()["length"] == 1000

    run(test)


def test_every_answer_to_a_front_says_which_model_gave_it() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            replica.engine.go_on.set()
            for path in (ECHO, STREAM, "/metrics"):
                assert (await replica.front.post(path, json={})).headers[wire.KEY_HEADER] == KEY

    run(test)


def test_every_inference_path_reaches_the_engine_by_post_alone() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            replica.engine.go_on.set()
            for path in sorted(wire.INFERENCE):
                assert (await replica.front.post(path, json={})).status_code == 200
                assert (await replica.front.get(path)).status_code == 405
            for method in ("GET", "PUT", "DELETE", "OPTIONS"):
                refused = await replica.front.request(method, ECHO)
                assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
                assert error_of(refused)["code"] == "method_not_allowed"

    run(test)


def test_no_other_path_reaches_the_engine() -> None:
    paths = (
        "/",
        "/metrics",
        "/health",
        "/v1/models",
        "/v1/load_lora_adapter",
        "/v1/chat/completions/batch",
        "/v1/completions/",
        "//v1/completions",
        "/v1/responses/resp_1/cancel",
        "/invocations",
        "/pause",
    )

    async def test() -> None:
        async with a_replica() as replica:
            for path in paths:
                refused = await replica.front.post(f"http://{replica.address}{path}", json={})
                assert refused.status_code == 404, path
                assert error_of(refused)["code"] == "not_found"

    run(test)


def test_a_stream_comes_as_the_engine_writes_it() -> None:
    async def test() -> None:
        async with a_replica() as replica, replica.front.stream("POST", STREAM, json={}) as answer:
            chunks = answer.aiter_bytes()
            assert await anext(chunks) == CHUNKS[0]
            replica.engine.go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == CHUNKS[1] + CHUNKS[2]

    run(test)


def test_an_engine_hears_that_its_client_has_gone() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            async with replica.front.stream("POST", STREAM, json={}):
                await replica.until_streaming(1)
            await replica.until_streaming(0)

    run(test)


def test_a_gate_without_a_secret_is_not_built() -> None:
    with pytest.raises(ValueError, match="empty"):
        Gate(Engine(), secret="", model_key=KEY, is_healthy=lambda: True)


# --- health ----------------------------------------------------------------------------------------------------------


def test_health_needs_no_secret_and_follows_the_engine() -> None:
    async def test() -> None:
        async with a_replica() as replica, httpx.AsyncClient(trust_env=False) as stranger:
            at = f"http://{replica.address}{wire.HEALTH_PATH}"
            assert (await stranger.get(at)).status_code == 200
            assert (await stranger.head(at)).status_code == 200
            assert (await stranger.post(at)).status_code == 405
            replica.engine.alive = False
            assert (await stranger.get(at)).status_code == 503
            assert (await stranger.head(at)).content == b""

    run(test)


def test_a_dead_engine_is_not_asked() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            replica.engine.alive = False
            refused = await replica.front.post(ECHO, json={})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert error_of(refused)["code"] == "engine_dead"

    run(test)


# --- what is not a request -------------------------------------------------------------------------------------------


MALFORMED = (
    b"\r\n\x00\xff garbage\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nno colon\r\n\r\n",
    b"POST \xff\xfe HTTP/1.1\r\n\r\n",
    b"CONNECT inside:80 HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET http://elsewhere/metrics HTTP/1.1\r\n\r\n",
    b"GET /v1/realtime HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
)


def test_malformed_requests_are_refused_and_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with a_replica() as replica:
            for sent in MALFORMED:
                reader, writer = await replica.connect()
                writer.write(sent)
                line = await reader.readline()
                assert line.split()[1] in {b"400", b"403"}, (sent, line)
                writer.close()
            assert (await replica.front.post(ECHO, json={})).status_code == 200

    run(test)
    assert not caplog.records


def test_a_large_body_without_the_secret_is_not_waited_for() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            reader, writer = await replica.connect()
            writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1_000_000)
            assert (await reader.readline()).split()[1] == b"403"
            writer.close()

    run(test)


def test_a_body_of_megabytes_reaches_the_engine_whole() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            answer = await replica.front.post(ECHO, content=b"x" * 10_000_000)
            assert answer.json()["length"] == 10_000_000

    run(test)


def test_a_websocket_is_closed() -> None:
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message)

    gate = Gate(Engine(), secret=SECRET, model_key=KEY, is_healthy=lambda: True)
    run(lambda: gate({"type": "websocket", "path": STREAM, "headers": []}, receive, send))
    assert [message["type"] for message in said] == ["websocket.close"]


# --- going -----------------------------------------------------------------------------------------------------------


async def whole(replica: Replica) -> bytes:
    return (await replica.front.post(STREAM, json={})).content


def test_draining_lets_every_stream_end() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            streams = [asyncio.create_task(whole(replica)) for _ in range(20)]
            await replica.until_streaming(20)
            drained = asyncio.create_task(replica.server.drain(LIMIT_S))
            while await replica.takes_connections():
                pass
            assert not drained.done()
            replica.engine.go_on.set()
            assert await asyncio.gather(*streams) == [b"".join(CHUNKS)] * 20
            await drained
            assert replica.engine.streaming == 0

    run(test)


def test_a_replica_that_goes_is_in_service_until_fronts_have_let_go_of_it() -> None:
    async def test() -> None:
        async with a_replica(settle_s=0.2) as replica:
            drained = asyncio.create_task(replica.server.drain(LIMIT_S))
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 0.6:  # thrice as long as it takes without requests
                assert (await replica.front.post(ECHO, json={})).status_code == 200
                assert await replica.health() == 200
            assert not drained.done()
            await drained
            assert not await replica.takes_connections()

    run(test)


def test_fronts_that_nobody_tells_are_told_by_the_replica_and_served_meanwhile() -> None:
    async def test() -> None:
        async with a_replica(settle_s=0.4, handover_s=0.1) as replica:
            drained = asyncio.create_task(replica.server.drain(LIMIT_S))
            while await replica.health() != 404:
                assert (await replica.front.post(ECHO, json={})).status_code == 200
            assert (await replica.front.post(ECHO, json={})).status_code == 200
            assert not drained.done()
            replica.engine.alive = False
            assert await replica.health() == 503
            await drained

    run(test)


def test_handing_over_ends_where_draining_does() -> None:
    async def test() -> None:
        async with a_replica(settle_s=10 * LIMIT_S, handover_s=10 * LIMIT_S) as replica:
            await replica.server.drain(0.1)
            assert not await replica.takes_connections()

    run(test)


def test_a_drained_replica_takes_no_new_request() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            _, kept = await replica.connect()
            assert await replica.health() == 200
            await replica.server.drain(LIMIT_S)
            with pytest.raises(httpx.ConnectError):
                await replica.front.post(ECHO, json={})
            kept.close()

    run(test)


def test_connections_without_a_request_are_closed_and_do_not_hold_a_drain_up() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            reader, writer = await replica.connect()
            writer.write(f"GET {wire.HEALTH_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert (await reader.readline()).split()[1] == b"200"
            await replica.server.drain(LIMIT_S)
            await reader.read()  # to its end
            writer.close()

    run(test)


def test_what_runs_past_the_limit_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with a_replica() as replica:
            streams = [asyncio.create_task(whole(replica)) for _ in range(3)]
            await replica.until_streaming(3)
            await replica.server.drain(0.2)
            ends = await asyncio.gather(*streams, return_exceptions=True)
            assert all(isinstance(end, httpx.TransportError) for end in ends)
            assert replica.engine.streaming == 0

    with caplog.at_level(logging.WARNING, replica_server.__name__):
        run(test)
    assert [record.getMessage() for record in caplog.records if record.name == replica_server.__name__] == [
        "cut 3 requests that still ran after 0 s of draining"
    ]


def test_a_replica_whose_engine_is_dead_goes_without_waiting_for_fronts() -> None:
    async def test() -> None:
        async with a_replica(settle_s=10 * LIMIT_S) as replica:
            replica.engine.alive = False
            await replica.server.drain(10 * LIMIT_S)
            assert not await replica.takes_connections()

    run(test)


def test_draining_twice_is_draining_once() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            stream = asyncio.create_task(whole(replica))
            await replica.until_streaming(1)
            first, second = (asyncio.create_task(replica.server.drain(limit_s)) for limit_s in (LIMIT_S, 0))
            await asyncio.sleep(0)
            replica.engine.go_on.set()
            await asyncio.gather(first, second)
            assert await stream == b"".join(CHUNKS)
            await replica.server.drain(0)

    run(test)


def test_a_replica_knows_what_waits_for_its_engine() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            assert (replica.server.in_flight, replica.server.is_leaving) == (0, False)
            stream = asyncio.create_task(whole(replica))
            await replica.until_streaming(1)
            assert replica.server.in_flight == 1
            await replica.server.idle(0.01)
            assert not stream.done(), "the limit does not count"
            ends = asyncio.create_task(replica.server.idle(LIMIT_S))
            replica.engine.go_on.set()
            await ends
            assert replica.server.in_flight == 0
            await stream
            drained = asyncio.create_task(replica.server.drain(LIMIT_S))
            await asyncio.sleep(0)
            assert replica.server.is_leaving
            await drained

    run(test)


def test_a_server_that_never_started_is_drained_already() -> None:
    server = ReplicaServer(Engine(), secret=SECRET, model_key=KEY, version="v1", is_healthy=lambda: True)
    run(lambda: server.drain(LIMIT_S))


# --- starting --------------------------------------------------------------------------------------------------------


def test_a_replica_says_where_it_is_and_what_it_runs() -> None:
    async def test() -> None:
        async with a_replica() as replica:
            assert replica.server.metadata() == {"argus": {"address": replica.address, "version": "v1"}}

    run(test)


def test_an_address_that_is_not_this_nodes_is_refused_in_words() -> None:
    server = ReplicaServer(Engine(), secret=SECRET, model_key=KEY, version="v1", is_healthy=lambda: True)
    with pytest.raises(RuntimeError, match=r"cannot listen on 192\.0\.2\.1: .*address of this node"):
        run(lambda: server.start("192.0.2.1"))


def test_it_runs_on_nodes_that_do_not_have_us(tmp_path: Path) -> None:
    from ray import cloudpickle

    sent = tmp_path / "sent.pkl"
    modules = (replica_server, answers, routes, wire)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        sent.write_bytes(cloudpickle.dumps((ReplicaServer, wire.HEALTH_PATH)))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
    node = """
import asyncio, pickle, sys, urllib.request
sys.modules["reconciler"] = None
server_class, path = pickle.load(open(sys.argv[1], "rb"))
async def main():
    server = server_class(None, secret="s", model_key="k", version="v", is_healthy=lambda: True, settle_s=0)
    at = "http://" + await server.start("127.0.0.1") + path
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    print((await asyncio.to_thread(opener.open, at, None, 10)).status)
    await server.drain(10)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", node, str(sent)], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.stdout, done.returncode) == ("200\n", 0), done.stderr
