"""Ray's front: an ASGI app that sends a request straight to the server of a replica, and streams the answer back.

It runs as the Serve application's root where `serving.front` is `ray`, and knows nothing of Ray itself: which replicas
there are it reads from the routing table, so nothing that happens to a model touches its process. Sent to the cluster
by value: nodes need Ray, not Argus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import aiohttp
from yarl import URL

from reconciler.core import answers
from reconciler.core.answers import Answer, Forward
from reconciler.core.routes import Route, RoutingTable, Target
from reconciler.core.wire import COMMIT_HEADER, KEY_HEADER, OWN_HEADERS, SECRET_HEADER

log = logging.getLogger("ray.serve")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

LOOK_S = 0.2
CONNECT_S = 5.0
KEPT_S = 60.0
"""How long an idle connection is kept: less than a replica keeps it (`replica_server.KEEP_ALIVE_S`, 120 s)."""

ATTEMPTS = 3
"""How often a request is sent before it is given up: to another replica each time, as long as there is one."""

WHOLE_BYTES = 1 << 20
"""An answer that is shorter, and says so, goes back in one piece."""

LARGE_BYTES = 64 * 1024
"""A body from which on parsing is done on a thread, so that nobody else waits for it."""

HEALTHZ = "/healthz"
READYZ = "/readyz"

_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
# What a client says about who it is, and what would let it choose its place in an engine's queue: as HAProxy's front.
_NOT_SENT = _HOP_BY_HOP | {
    b"api-key",
    b"authorization",
    b"content-length",
    b"cookie",
    b"endpoint-load-metrics-format",
    b"expect",
    b"forwarded",
    b"host",
    b"via",
    b"x-api-key",
    b"x-client-ip",
    b"x-data-parallel-rank",
    b"x-real-ip",
    b"x-vllm-priority",
}
_NOT_SENT_BEGINNINGS = (
    OWN_HEADERS.encode(),
    b"remote-",
    b"x-auth-",
    b"x-authenticated-",
    b"x-forwarded-",
    b"x-remote-",
    b"x-user",
)
_NOT_RETURNED = _HOP_BY_HOP | {b"date", b"server"}
"""Serve's own server says when and who."""


class _ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Ingress:
    """The front as an ASGI app. One event loop at a time; `lifespan` starts and ends what it keeps open."""

    def __init__(
        self,
        news: Callable[[], RoutingTable | None],
        max_body_bytes: int,
        idle_timeout_s: float,
    ) -> None:
        """Begin without a table.

        Args:
            news: Gives the routing table where there is a new one, else None. Called on a thread; may raise.
            max_body_bytes: The longest request body.
            idle_timeout_s: How long a replica may be silent.
        """
        self._news = news
        self._max_body_bytes = max_body_bytes
        self._idle_timeout_s = idle_timeout_s
        self._table: RoutingTable | None = None
        self._in_flight: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or live through the app's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            with contextlib.suppress(_ClientGone):
                await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._look()
        looking = asyncio.create_task(self._keep_looking())
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._idle_timeout_s)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            timeout=timeout,
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        looking.cancel()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        try:
            self._table = await asyncio.to_thread(self._news) or self._table
        except Exception as error:  # whatever Ray's store fails with, the last table is still the best there is
            log.warning("the routing table cannot be read: %s", error)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if method == "OPTIONS":
            await _reply(send, answers.options(path))
            return
        if path in {HEALTHZ, READYZ}:
            await _reply(send, _health(path, self._table))
            return
        body = await self._body(scope["headers"], receive)
        if body is None:
            await _reply(send, answers.too_large(self._max_body_bytes))
            return
        if len(body) < LARGE_BYTES:
            decided = answers.decide(self._table, method, path, body)
        else:
            decided = await asyncio.to_thread(answers.decide, self._table, method, path, body)
        if isinstance(decided, Forward):
            await self._forward(decided.route, scope, body, receive, send)
        else:
            await _reply(send, decided)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Read the whole body; None where it is too large."""
        said = next((value for name, value in headers if name == b"content-length"), b"0")
        if said.isdigit() and int(said) > self._max_body_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _forward(self, route: Route, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Relay until the answer has ended or its client is gone, whichever is first."""
        relay = asyncio.create_task(self._relay(route, scope, body, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        finally:
            relay.cancel()
            gone.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)

    async def _relay(self, route: Route, scope: Message, body: bytes, send: Send) -> None:
        headers = [*_sent(scope["headers"]), (SECRET_HEADER, self._table.secret if self._table else "")]
        query = scope["query_string"].decode("latin-1")
        path = f"{scope['path']}?{query}" if query else scope["path"]
        for target in self._order(route.targets):
            with self._counted(target):
                try:
                    response = await self._post(target, path, body, headers)
                except aiohttp.SocketTimeoutError:
                    await _reply(send, _silent(self._idle_timeout_s))
                except aiohttp.ClientError:
                    continue
                else:
                    if response.status == 503:  # a replica whose engine is dead: nothing of the request was done
                        response.close()
                        continue
                    await _pass_on(response, target, send)
                return
        await _reply(send, answers.lost())

    def _order(self, targets: Sequence[Target]) -> list[Target]:
        """Say in which order targets are tried: the one with the fewest requests from here first."""
        ranked = sorted(targets, key=lambda target: (self._in_flight[target.address], random.random()))
        return (ranked * ATTEMPTS)[:ATTEMPTS]

    @contextlib.contextmanager
    def _counted(self, target: Target) -> Iterator[None]:
        self._in_flight[target.address] += 1
        try:
            yield
        finally:
            self._in_flight[target.address] -= 1
            if not self._in_flight[target.address]:
                del self._in_flight[target.address]

    async def _post(
        self, target: Target, path: str, body: bytes, headers: Sequence[tuple[str, str]]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the ingress has not been started (ASGI lifespan)")
        url = URL(f"http://{target.address}{path}", encoded=True)
        return await self._session.post(url, data=body, headers=headers, allow_redirects=False)


async def _pass_on(response: aiohttp.ClientResponse, target: Target, send: Send) -> None:
    try:
        length = response.content_length
        whole = await response.read() if length is not None and length <= WHOLE_BYTES else None
        headers = [*_returned(response.raw_headers)]
        if target.commit:
            headers.append((COMMIT_HEADER.encode(), target.commit.encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if whole is None:
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": whole or b""})
    finally:
        # Where the answer was read to its end this keeps the connection for the next request; else it ends it.
        response.release()


async def _reply(send: Send, answer: Answer) -> None:
    content = answer.content()
    headers = dict(answer.headers)
    if answer.status != 204:
        headers |= {"content-type": "application/json", "content-length": str(len(content))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _health(path: str, table: RoutingTable | None) -> Answer:
    if path == HEALTHZ:
        return Answer(200, {"status": "ok"})
    if table is None:
        return Answer(503, {"status": "starting", "reason": "no routing table has been published yet"})
    known = {
        "status": "ready",
        "models": len(table.routes),
        "models_answering": sum(bool(route.targets) for route in table.routes),
        "replicas": sum(len(route.targets) for route in table.routes),
    }
    return Answer(200, known)


def _silent(limit_s: float) -> Answer:
    return answers.refuse(504, f"the model was silent for {limit_s:g} s", "model_timeout")


def _sent(headers: Headers) -> Iterator[tuple[str, str]]:
    """Give the headers that go on to a replica."""
    named = {
        name for key, value in headers if key == b"connection" for name in value.lower().replace(b" ", b"").split(b",")
    }
    for name, value in headers:
        if name not in _NOT_SENT and name not in named and not name.startswith(_NOT_SENT_BEGINNINGS):
            yield name.decode("latin-1"), value.decode("latin-1")


def _returned(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """Give the headers that go back to a client."""
    own, key = OWN_HEADERS.encode(), KEY_HEADER.encode()
    for raw_name, value in headers:
        name = raw_name.lower()
        if name not in _NOT_RETURNED and (name == key or not name.startswith(own)):
            yield name, value


class EmptyRoot:
    """The root of an application that no front enters. Serve wants one to bind the models under; no process runs it."""

    def __init__(self, models: object) -> None:
        """Take the models, which become part of the application by being bound here."""
