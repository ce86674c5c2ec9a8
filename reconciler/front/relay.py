"""Passes a request on to HAProxy's inner side, under its model's name, and the answer back as it comes.

In Python, and so the slow road; it is for the few requests that HAProxy could not name itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from reconciler.core import answers
from reconciler.front.asgi import Receive, Scope, Send, send_answer
from reconciler.front.config import CONNECT_TIMEOUT_S, MODEL_HEADER, RELAYED_HEADER
from reconciler.front.files import INNER_SOCKET

log = logging.getLogger(__name__)

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"content-length",
        MODEL_HEADER.encode(),
    }
)


class Body:
    """A body in memory, and the place in the room that it takes."""

    def __init__(self, room: asyncio.Semaphore) -> None:
        """Take over a place that was acquired in `room`."""
        self._room: asyncio.Semaphore | None = room
        self.content = b""

    async def take(self) -> AsyncIterator[bytes]:
        """Give the body once, and drop it when it is sent."""
        yield self.content
        self.drop()

    def drop(self) -> None:
        """Forget the body and give its place back; more than once does no harm."""
        self.content = b""
        if self._room is not None:
            self._room.release()
            self._room = None


class Relay:
    """Connections to HAProxy's inner side. Belongs to the event loop that first uses it."""

    def __init__(self, folder: Path, idle_timeout_s: float) -> None:
        """Find HAProxy in the front's folder, which stays open until `close`."""
        self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=f"/proc/self/fd/{self._descriptor}/{INNER_SOCKET}",
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=5.0),
                trust_env=False,
            ),
            timeout=httpx.Timeout(idle_timeout_s, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.aclose()
        os.close(self._descriptor)

    async def pass_on(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        model_id: str,
        body: Body,
    ) -> None:
        """Pass a request on and its answer back. A client that leaves takes its request with it.

        Args:
            scope: The request's.
            receive: The request's; its body has been read.
            send: The request's.
            model_id: Whose it is.
            body: Taken out of memory as soon as it is sent.
        """
        stream = asyncio.ensure_future(self._stream(scope, send, model_id, body))
        left = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({stream, left}, return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                stream.result()
        finally:
            for task in (stream, left):
                task.cancel()
            await asyncio.gather(stream, left, return_exceptions=True)

    async def _stream(self, scope: Scope, send: Send, model_id: str, body: Body) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _HOP_BY_HOP]
        headers += [
            (MODEL_HEADER.encode(), model_id.encode()),
            (RELAYED_HEADER.encode(), b"1"),
            (b"content-length", str(len(body.content)).encode()),
        ]
        query = scope["query_string"]
        target = scope["path"].encode() + (b"?" + query if query else b"")
        request = httpx.Request(
            "POST",
            "http://front/",
            headers=headers,
            content=body.take(),
            extensions={"target": target, "timeout": self._client.timeout.as_dict()},
        )
        started = False
        try:
            response = await self._client.send(request, stream=True)
            try:
                kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _HOP_BY_HOP]
                if "content-length" in response.headers:
                    kept.append((b"content-length", response.headers["content-length"].encode()))
                await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
                started = True
                async for part in response.aiter_raw():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            # Once begun, an answer that breaks off can only be broken off: returning closes the connection.
            log.warning("a request for %s could not be passed on: %r", model_id, error)
            if not started:
                await send_answer(send, "POST", answers.lost())
