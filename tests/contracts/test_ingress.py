"""What Ray's front does between a client and replicas, over real connections and without Ray around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from reconciler.core.routes import Name, Replica, RoutingTable, Unavailable, routing_table
from reconciler.core.wire import COMMIT_HEADER, KEY_HEADER, SECRET_HEADER
from reconciler.shell.ingress import Ingress

SECRET = "a-secret-of-the-fronts"
MODEL = "alice-202601061230-qwen"
KEY = "svc-alice-20260106-123000-abcd"
CHAT = "/v1/chat/completions"
LIMIT_S = 20.0
MAX_BODY = 70_000


class Upstream:
    """A replica's server at its barest: what becomes of a request is told to it."""

    def __init__(self) -> None:
        self.address = ""
        self.heads: list[str] = []
        self.connections = 0
        self.open = 0
        self.go_on = asyncio.Event()
        self.behaves: Callable[[asyncio.StreamWriter], Awaitable[bool]] = self.answers
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            for writer in self._writers:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connections += 1
        self.open += 1
        try:
            goes_on = True
            while goes_on:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
                await reader.readexactly(int(length.partition(":")[2]))
                self.heads.append(head)
                talking = asyncio.ensure_future(self.behaves(writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({talking, gone}, return_when=asyncio.FIRST_COMPLETED)
                goes_on = talking.done() and talking.result()
                talking.cancel()
                gone.cancel()
                await asyncio.gather(talking, gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answers(self, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps({"from": self.address}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: engine\r\nx-argus-inside: no\r\n"
            + f"{KEY_HEADER}: {KEY}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return True

    async def waits(self, writer: asyncio.StreamWriter) -> bool:
        await self.go_on.wait()
        return await self.answers(writer)

    async def is_dead(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        return True

    async def hangs_up(self, _writer: asyncio.StreamWriter) -> bool:
        return False

    async def streams(self, writer: asyncio.StreamWriter) -> bool:
        """One chunk, and the other when it is told to go on."""
        await self._breaks(writer)
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        await writer.drain()
        return True

    async def breaks_off(self, writer: asyncio.StreamWriter) -> bool:
        await self._breaks(writer)
        return False

    async def _breaks(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        await self.go_on.wait()


class Board:
    """Where the ingress finds its table."""

    def __init__(self) -> None:
        self.table: RoutingTable | None = None
        self.works = True
        self.looks = 0

    def news(self) -> RoutingTable | None:
        self.looks += 1
        if not self.works:
            raise OSError("the store is away")
        found, self.table = self.table, None
        return found

    async def looked_at(self) -> None:
        known = self.looks
        await until(lambda: self.looks >= known + 2)


class World:
    """An ingress with replicas behind it, and a client before it."""

    def __init__(self, board: Board, upstreams: list[Upstream], client: httpx.AsyncClient) -> None:
        self.board = board
        self.upstreams = upstreams
        self.client = client

    async def chat(self, **more: Any) -> httpx.Response:
        return await self.client.post(CHAT, json={"model": MODEL}, **more)


def table(*addresses: str) -> RoutingTable:
    name = Name(MODEL, KEY, "alice", 1, {"v1": "c0ffee"}, Unavailable("model_loading", "is still loading", 10))
    replicas = [Replica(f"r{number}", KEY, "v1", address) for number, address in enumerate(addresses)]
    return routing_table(SECRET, [name], replicas)


@asynccontextmanager
async def a_world(
    replicas: int = 1, *, idle_timeout_s: float = LIMIT_S, starting: bool = False
) -> AsyncIterator[World]:
    board = Board()
    upstreams = [Upstream() for _ in range(replicas)]
    for upstream in upstreams:
        await upstream.start()
    board.table = None if starting else table(*(upstream.address for upstream in upstreams))
    app: Any = Ingress(board.news, MAX_BODY, idle_timeout_s)
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="on", server_header=False, date_header=False)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # they are pytest's
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT_S) as client:
            yield World(board, upstreams, client)
    finally:
        for upstream in upstreams:
            await upstream.stop()
        server.should_exit = True
        await serving


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  limited by `run`
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[object]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), LIMIT_S)

    asyncio.run(limited())


def test_a_replica_sees_the_front_and_nothing_that_is_not_its_business() -> None:
    async def test() -> None:
        async with a_world() as world:
            secrets = {"Authorization": "Bearer t", "Cookie": "a=b", "X-User-Id": "eve", SECRET_HEADER: "forged"}
            secrets |= {"X-Forwarded-For": "1.2.3.4", "Connection": "X-Hop", "X-Hop": "1"}
            await world.client.post(f"{CHAT}?debug=1", json={"model": MODEL}, headers={**secrets, "X-Trace": "t1"})
            head = world.upstreams[0].heads[0].lower()
            lines = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
            assert head.startswith(f"post {CHAT}?debug=1 ")
            assert (lines[SECRET_HEADER], lines["x-trace"]) == (SECRET, "t1")
            assert not {"authorization", "cookie", "x-user-id", "x-forwarded-for", "x-hop"} & lines.keys()

    run(test)


def test_an_answer_says_which_model_and_commit_it_is_of_and_nothing_of_the_inside() -> None:
    async def test() -> None:
        async with a_world() as world:
            answer = await world.chat()
            assert (answer.headers[KEY_HEADER], answer.headers[COMMIT_HEADER]) == (KEY, "c0ffee")
            assert not {"x-argus-inside", "server"} & answer.headers.keys()

    run(test)


def test_a_request_goes_to_the_replica_with_the_fewest_of_them() -> None:
    async def test() -> None:
        async with a_world(2) as world:
            for upstream in world.upstreams:
                upstream.behaves = upstream.waits
            chats = [asyncio.create_task(world.chat()) for _ in range(8)]
            await until(lambda: sum(len(upstream.heads) for upstream in world.upstreams) == len(chats))
            assert [len(upstream.heads) for upstream in world.upstreams] == [4, 4]
            for upstream in world.upstreams:
                upstream.go_on.set()
            assert [(await chat).status_code for chat in chats] == [200] * 8

    run(test)


def test_a_connection_to_a_replica_is_used_again() -> None:
    async def test() -> None:
        async with a_world() as world:
            for _ in range(3):
                await world.chat()
            assert world.upstreams[0].connections == 1

    run(test)


@pytest.mark.parametrize("how", ["refuses", "hangs up", "has a dead engine"])
def test_a_replica_that_cannot_answer_is_passed_over(how: str) -> None:
    async def test() -> None:
        async with a_world(2) as world:
            lost, answers = world.upstreams
            if how == "refuses":
                await lost.stop()
            lost.behaves = lost.hangs_up if how == "hangs up" else lost.is_dead
            for _ in range(20):  # which of two idle ones comes first is chance: 1 in 1,000,000 never meets the lost one
                assert (await world.chat()).json() == {"from": answers.address}
            assert lost.heads or how == "refuses"

    run(test)


def test_where_every_replica_is_gone_the_client_is_told_to_try_again() -> None:
    async def test() -> None:
        async with a_world(2) as world:
            for upstream in world.upstreams:
                await upstream.stop()
            answer = await world.chat()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replica_lost")
            assert answer.headers["retry-after"] == "2"

    run(test)


def test_chunks_are_passed_on_as_they_come() -> None:
    async def test() -> None:
        async with a_world() as world:
            upstream = world.upstreams[0]
            upstream.behaves = upstream.streams
            async with world.client.stream("POST", CHAT, json={"model": MODEL}) as answer:
                chunks = answer.aiter_raw()
                assert await anext(chunks) == b"first"
                upstream.go_on.set()
                assert [chunk async for chunk in chunks] == [b"second"]

    run(test)


def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def test() -> None:
        async with a_world() as world:
            upstream = world.upstreams[0]
            upstream.behaves = upstream.breaks_off
            async with world.client.stream("POST", CHAT, json={"model": MODEL}) as answer:
                chunks = answer.aiter_raw()
                assert await anext(chunks) == b"first"
                upstream.go_on.set()
                with pytest.raises(httpx.RemoteProtocolError):
                    await anext(chunks)
            assert len(upstream.heads) == 1, "an answer that had begun was asked for again"

    run(test)


def test_a_client_that_goes_away_frees_its_replica() -> None:
    async def test() -> None:
        async with a_world() as world:
            upstream = world.upstreams[0]
            upstream.behaves = upstream.streams
            async with world.client.stream("POST", CHAT, json={"model": MODEL}) as answer:
                assert await anext(answer.aiter_raw()) == b"first"
                assert upstream.open == 1
            await until(lambda: upstream.open == 0)

    run(test)


def test_a_replica_that_is_silent_for_too_long_is_given_up_and_not_asked_twice() -> None:
    async def test() -> None:
        async with a_world(2, idle_timeout_s=0.2) as world:
            for upstream in world.upstreams:
                upstream.behaves = upstream.waits
            answer = await world.chat()
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "model_timeout")
            assert sum(len(upstream.heads) for upstream in world.upstreams) == 1

    run(test)


def test_a_body_that_is_too_large_reaches_nobody() -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 10_000

    async def test() -> None:
        async with a_world() as world:
            whole = await world.client.post(CHAT, content=b"x" * (MAX_BODY + 1))
            pieces = await world.client.post(CHAT, content=in_pieces())
            for answer in (whole, pieces):
                assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert not world.upstreams[0].heads

    run(test)


def test_the_newest_table_counts_and_the_last_one_stays_where_none_can_be_read() -> None:
    async def test() -> None:
        async with a_world() as world:
            world.board.works = False
            await world.board.looked_at()
            assert (await world.chat()).status_code == 200
            world.board.works, world.board.table = True, table()
            await world.board.looked_at()
            answer = await world.chat()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")

    run(test)


def test_the_front_lives_at_once_and_is_ready_when_it_has_a_table() -> None:
    async def test() -> None:
        async with a_world(starting=True) as world:
            paths = ("/healthz", "/readyz")
            assert [(await world.client.get(path)).status_code for path in paths] == [200, 503]
            assert (await world.chat()).json()["error"]["code"] == "starting"
            world.board.table = table()
            await world.board.looked_at()
            assert [(await world.client.get(path)).status_code for path in paths] == [200, 200]

    run(test)
