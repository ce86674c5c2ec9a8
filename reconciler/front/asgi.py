"""The few words of ASGI that the desk speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from reconciler.core.answers import Answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def send_answer(send: Send, method: str, answer: Answer) -> None:
    """Send an answer to a request by `method`: HEAD gets no body."""
    await send_json(send, method, answer.status, answer.content(), answer.headers)


async def send_json(
    send: Send, method: str, status: int, content: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Send rendered JSON, or nothing where `content` is empty."""
    told = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    if content:
        told += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})
