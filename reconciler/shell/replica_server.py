"""The HTTP server that every replica runs itself, and the gate before the engine's own app.

Requests come straight from a front, not through Serve, so what Serve would do for them is done here: who may come in,
and how a replica that goes lets its requests end. It knows neither Ray nor an engine: an app is any ASGI app.

Sent to the cluster by value, like `engine`: nodes need Ray and vLLM, not Argus.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any, TypeAlias

import uvicorn

from reconciler.core.answers import Answer, refuse
from reconciler.core.wire import HEALTH_PATH, INFERENCE, KEY_HEADER, SECRET_HEADER

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SETTLE_S = 3.0
"""How long a replica that goes still takes requests after the last one came: fronts hear of it within a second."""

HANDOVER_S = 60.0
"""How long a replica that goes serves fronts that go on sending: those that have not heard of its successor either,
because the reconciler or the board is away. It takes the reconciler 20 s to be back."""

START_LIMIT_S = 30.0
CUT_LIMIT_S = 5.0
"""How long an app may take to end a request whose connection was cut."""

KEEP_ALIVE_S = 120
"""Longer than any front keeps a connection that it does not use: the end that closes one must not be ours, for the
front may be writing the next request to it at that moment."""

BACKLOG = 2048
RETRY_DEAD_S = 2

_SECRET = SECRET_HEADER.encode()

_DROPPED = frozenset({_SECRET, b"x-data-parallel-rank", b"endpoint-load-metrics-format"})
"""Request headers that never reach the engine: the secret; which of an engine's shards works; and what has vLLM read
all its metrics for each answer and show them to the client."""


class Gate:
    """The ASGI app before the engine's: it lets in what a front sends to a path that users may reach.

    Args:
        app: The engine's app.
        secret: What fronts show in `wire.SECRET_HEADER`.
        model_key: What answers carry in `wire.KEY_HEADER`.
        is_healthy: Says whether the engine lives. Called for each request, so it must be a cheap look.

    Raises ValueError for an empty secret, which everybody would know.
    """

    def __init__(self, app: App, *, secret: str, model_key: str, is_healthy: Callable[[], bool]) -> None:
        if not secret:
            raise ValueError("the secret between fronts and replicas is empty")
        self.draining = False
        """Whether the health path says that this replica takes nothing new. It goes on serving all the same."""
        self.in_flight = 0
        """How many requests the engine's app works on."""
        self.arrived = 0.0
        """When the last of them came in, on the monotonic clock."""
        self._app = app
        self._secret = secret.encode()
        self._stamp = (KEY_HEADER.encode(), model_key.encode())
        self.is_healthy = is_healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to the engine's app."""
        if scope["type"] != "http":
            await self._close(scope, receive, send)
            return
        path = scope["path"]
        if path == HEALTH_PATH:
            await _give(self._health(scope["method"]), send)
            return
        given = b""
        headers = []
        for header in scope["headers"]:
            if header[0] not in _DROPPED:
                headers.append(header)
            elif header[0] == _SECRET:
                given = header[1]
        if not hmac.compare_digest(given, self._secret):
            await _give(refuse(403, "this address takes requests from the platform's front only", "front_only"), send)
            return
        stamped = self._stamped(send)
        refused = self._refuse(scope["method"], path)
        if refused is not None:
            await _give(refused, stamped)
            return
        self.in_flight += 1
        self.arrived = time.monotonic()
        try:
            await self._app({**scope, "headers": headers}, receive, stamped)
        finally:
            self.in_flight -= 1

    def _health(self, method: str) -> Answer:
        if method not in {"GET", "HEAD"}:
            return _method_not_allowed(method, HEALTH_PATH, "GET")
        if not self.is_healthy():
            return _engine_dead()
        if self.draining:
            return refuse(404, "this replica takes nothing new: it is going", "draining")
        return Answer(200, {"status": "ready"})

    def _refuse(self, method: str, path: str) -> Answer | None:
        if path not in INFERENCE:
            return refuse(404, f"there is no {path[:200]} here", "not_found")
        if method != "POST":
            return _method_not_allowed(method, path, "POST")
        return None if self.is_healthy() else _engine_dead()

    def _stamped(self, send: Send) -> Send:
        stamp = self._stamp

        # Not a coroutine of its own: that would be one more for every token.
        def stamped(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), stamp]}
            return send(message)

        return stamped

    async def _close(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End what is not a request: a websocket is closed, and the server's own start and end are the app's."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})


class ReplicaServer:
    """A `Gate` on a port of its own, on the event loop that calls `start`.

    Args:
        app: The engine's app.
        secret: What fronts are known by.
        model_key: The model that answers.
        version: `Workload.version` of what the engine was built from.
        is_healthy: Says whether the engine lives, at once.
        settle_s: How long requests are still taken after the last one came, once `drain` is called.
        handover_s: How long they may go on coming until fronts are told.
    """

    def __init__(
        self,
        app: App,
        *,
        secret: str,
        model_key: str,
        version: str,
        is_healthy: Callable[[], bool],
        settle_s: float = SETTLE_S,
        handover_s: float = HANDOVER_S,
    ) -> None:
        self._gate = Gate(app, secret=secret, model_key=model_key, is_healthy=is_healthy)
        self._version = version
        self._settle_s = settle_s
        self._handover_s = handover_s
        self._address = ""
        self._server = _Server(_config(self._gate))
        self._serving: asyncio.Task[None] | None = None
        self._drained: asyncio.Task[None] | None = None

    async def start(self, host: str) -> str:
        """Listen on `host` and a free port, and give host:port once connections are taken.

        Raises RuntimeError where that cannot be.
        """
        listener = _listen(host)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="replica-server")
        accepting = asyncio.create_task(self._server.accepting.wait())
        done, _ = await asyncio.wait(
            {self._serving, accepting}, timeout=START_LIMIT_S, return_when=asyncio.FIRST_COMPLETED
        )
        accepting.cancel()
        if accepting not in done:
            self._serving.cancel()
            listener.close()
            why = f"it did not start within {START_LIMIT_S:.0f} s"
            if self._serving in done and (error := self._serving.exception()) is not None:
                why = f"{type(error).__name__}: {error}"
            raise RuntimeError(f"the replica's HTTP server on {host} takes no connections: {why}")
        self._address = _address(listener)
        return self._address

    def metadata(self) -> dict[str, Any]:
        """Give what Serve is to tell the reconciler about this replica (`record_replica_metadata`)."""
        return {"argus": {"address": self._address, "version": self._version}}

    @property
    def in_flight(self) -> int:
        """How many requests wait for the engine."""
        return self._gate.in_flight

    @property
    def is_leaving(self) -> bool:
        """Whether `drain` was called: connections may be refused from then on."""
        return self._drained is not None

    async def idle(self, limit_s: float) -> None:
        """Wait until no request waits for the engine, for at most `limit_s`."""
        until = time.monotonic() + limit_s
        while self._gate.in_flight and time.monotonic() < until:  # noqa: ASYNC110  the end of a replica, once
            await asyncio.sleep(0.02)

    async def drain(self, limit_s: float) -> None:
        """Hand over, take nothing new and let what runs end. Gives when nothing runs any more.

        Fronts learn with a delay that this replica goes, and that another has come in its place. So it serves as before
        until nothing has come for `settle_s`. Fronts that still send after `handover_s` have nobody who tells them:
        the health path does so then. (A dead engine could only refuse: requests are better off with a connection that
        fails, which a front tries again elsewhere.) Requests that run `limit_s` after the call are cut. Called again,
        it waits for the first.
        """
        if self._serving is None:
            return
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(self._serving, limit_s), name="replica-drain")
        await asyncio.shield(self._drained)

    async def _drain(self, serving: asyncio.Task[None], limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        if self._gate.is_healthy() and not await self._is_let_go(serving, min(self._handover_s, limit_s)):
            self._gate.draining = True
            await asyncio.wait({serving}, timeout=max(0.0, min(self._settle_s, deadline - time.monotonic())))
        self._gate.draining = True
        # uvicorn now closes the listener and idle connections, and the others as their requests end.
        self._server.should_exit = True
        await asyncio.wait({serving}, timeout=max(0.0, deadline - time.monotonic()))
        if not serving.done():
            await self._cut(serving, limit_s)

    async def _is_let_go(self, serving: asyncio.Task[None], limit_s: float) -> bool:
        """Wait until fronts send nothing any more. False where they still do after `limit_s`."""
        began = time.monotonic()
        while True:
            quiet_at = max(began, self._gate.arrived) + self._settle_s
            left = min(quiet_at, began + limit_s) - time.monotonic()
            if left <= 0:
                return quiet_at <= began + limit_s
            await asyncio.wait({serving}, timeout=left)
            if serving.done():
                return True

    async def _cut(self, serving: asyncio.Task[None], limit_s: float) -> None:
        if self._gate.in_flight:
            log.warning("cut %d requests that still ran after %.0f s of draining", self._gate.in_flight, limit_s)
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.wait({serving}, timeout=CUT_LIMIT_S)
        for task in list(state.tasks):
            task.cancel()
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving}, timeout=CUT_LIMIT_S)


class _Server(uvicorn.Server):
    """A uvicorn that says when it accepts, and leaves the process's signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take no signals: Ray's worker has handlers of its own."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting."""
        await super().startup(sockets)
        self.accepting.set()


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        # The app's start and end are the engine's affair (`engine.ModelServer`), and an engine is not stopped by this.
        lifespan="off",
        log_config=None,
        # Its warnings are about clients' bad requests: anybody could fill the log with them.
        log_level="error",
        access_log=False,
        # Would believe X-Forwarded-For from the loopback interface.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )


def _listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio's own loop sets TCP_NODELAY only then, and without it each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.bind((host, 0))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RuntimeError(
            f"cannot listen on {host}: {error.strerror or error}; right would be an address of this node"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _engine_dead() -> Answer:
    return refuse(503, "the engine of this replica is dead; another takes its place", "engine_dead", RETRY_DEAD_S)


def _method_not_allowed(method: str, path: str, right: str) -> Answer:
    refused = refuse(405, f"{path} takes {right}, not {method}", "method_not_allowed")
    return Answer(refused.status, refused.body, {"Allow": right})


async def _give(answer: Answer, send: Send) -> None:
    content = answer.content()
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
