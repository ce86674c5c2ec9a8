"""A replica as a front sees it: health, the secret, an echo, and streams that a test holds in its hands.

What it does with a request stands in the request's body: `hold` waits for `Replica.release` before the head of the
answer, `chunks` makes a stream of so many, one for each `Replica.let_go`, `status` answers so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import uvicorn

from reconciler.core.wire import HEALTH_PATH, KEY_HEADER, SECRET_HEADER

LIMIT_S = 20.0


def wait_for(condition: Callable[[], Any], what: str = "", limit_s: float = LIMIT_S) -> Any:
    """Wait until the condition holds, and give what it gave."""
    until = time.monotonic() + limit_s
    while not (given := condition()):
        assert time.monotonic() < until, f"it did not come to it: {what}"
        time.sleep(0.02)
    return given


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Stage:
    """The event loop that replicas of a test run on, on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._replicas: list[Replica] = []
        self._numbers = itertools.count(1)

    def replica(self, key: str, secret: str) -> Replica:
        """Start a replica, of a name that none had before."""
        made = Replica(self, f"r{next(self._numbers)}", key, secret)
        self._replicas.append(made)
        return made

    def call(self, function: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(LIMIT_S)

    def clear(self) -> None:
        for replica in self._replicas:
            replica.kill()
        self._replicas.clear()

    def close(self) -> None:
        self.clear()
        asyncio.run_coroutine_threadsafe(_finish(), self.loop).result(LIMIT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT_S)


class Replica:
    """One replica. What came in is in `seen`; `in_flight` and `left` count requests and clients that went away."""

    def __init__(self, stage: Stage, name: str, key: str, secret: str) -> None:
        self.name, self.key, self.secret = name, key, secret
        self.health = 200
        self.dead = False
        self.seen: list[dict[str, Any]] = []
        self.checks = self.in_flight = self.left = 0
        self._stage = stage
        # With its protocol said, or else asyncio leaves Nagle's algorithm on and each answer waits for 40 ms.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            timeout_keep_alive=600,
        )
        self._server = _Server(config)
        self._released, self._chunks = stage.call(asyncio.Event), stage.call(lambda: asyncio.Semaphore(0))
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve([self._listener]), stage.loop)
        wait_for(lambda: self._server.started, "a replica starts")

    def kill(self) -> None:
        """End as a killed process does: no word to anybody on any connection."""
        self._stage.call(self._kill)

    def release(self) -> None:
        """Let all requests go on that are held, now and later."""
        self._stage.call(self._released.set)

    def let_go(self, chunks: int = 1) -> None:
        """Let streams make so many further chunks, together."""
        for _ in range(chunks):
            self._stage.call(self._chunks.release)

    def _kill(self) -> None:
        for server in self._server.servers:
            server.close()
        self._listener.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        self._server.should_exit = self._server.force_exit = True

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["path"] == HEALTH_PATH:
            self.checks += 1
            await _json(send, self.health, {})
            return
        if headers.get(SECRET_HEADER) != self.secret:
            await _json(send, 403, {"error": "wrong secret"})
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self.dead:
            await _json(send, 503, {"error": {"code": "engine_dead"}})
            return
        self.seen.append({"path": scope["path"], "query": scope["query_string"], "headers": headers, "body": body})
        self.in_flight += 1
        work = asyncio.ensure_future(self._answer(scope, headers, body, send))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left += 1
        finally:
            self.in_flight -= 1
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, scope: Any, headers: dict[str, str], body: bytes, send: Any) -> None:
        asked: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            asked = json.loads(body)
        if asked.get("hold"):
            await self._released.wait()
        own = [
            (KEY_HEADER.encode(), self.key.encode()),
            (b"x-argus-inside", b"for nobody outside"),
            (b"x-other", b"kept"),
        ]
        if "chunks" in asked:
            start = {"type": "http.response.start", "status": 200}
            await send({**start, "headers": [(b"content-type", b"text/event-stream"), *own]})
            for number in range(asked["chunks"]):
                await self._chunks.acquire()
                event = f"data: {self.name} {number}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
            return
        said = {"replica": self.name, "path": scope["path"], "headers": headers, "bytes": len(body)}
        await _json(send, asked.get("status", 200), said, own)


async def _finish() -> None:
    """Wait for everything that runs on this loop but the caller."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _json(send: Any, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    content = json.dumps(body).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content})
