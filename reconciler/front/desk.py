"""The desk: an ASGI app that answers what no model answers, in the words of `core.answers`.

HAProxy sends it everything but requests whose model it has found. What turns out to be a model's all the same goes on
by `relay`: JSON that HAProxy does not see through (nested too deep, escaped, no model named where there is but one).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.core import answers
from reconciler.core.answers import MODELS, Answer, Forward, decide
from reconciler.core.routes import RoutingTable
from reconciler.core.wire import INFERENCE
from reconciler.front.asgi import Receive, Scope, Send, send_answer, send_json
from reconciler.front.relay import Body, Relay

READY = "/readyz"
BODY_LIMIT_S = 60.0
_LARGEST_BODY = 64 * 1024 * 1024
_RETRY_FULL_S = 60
_BODIES_AT_A_TIME = 32
"""Bodies held in memory at a time; each may be as long as a body may be."""


@dataclass(frozen=True)
class DeskView:
    """What the desk knows at one moment.

    `read_at` is when the board was last read well (`time.monotonic`), `trouble` why it cannot be; `full` are the keys
    of the models that could answer and have no slot.
    """

    table: RoutingTable | None
    read_at: float | None = None
    trouble: str | None = None
    full: frozenset[str] = frozenset()


class _Gone(Exception):
    """The client left before its request was complete."""


class Desk:
    """The app. `view` is asked at each request."""

    def __init__(
        self, view: Callable[[], DeskView], relay: Relay | None = None, max_body_bytes: int = _LARGEST_BODY
    ) -> None:
        """Without a relay, what is a model's all the same is answered as lost."""
        self._view = view
        self._relay = relay
        self._max_body_bytes = max_body_bytes
        self._room = asyncio.Semaphore(_BODIES_AT_A_TIME)
        self._listed: tuple[RoutingTable, bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Nothing but HTTP comes in: the server is run without lifespan and websockets."""
        method, path, table = str(scope["method"]), str(scope["path"]), self._view().table
        if path == READY and method in {"GET", "HEAD"}:
            await send_answer(send, method, _readiness(self._view()))
        elif path == MODELS and method in {"GET", "HEAD"} and table is not None:
            await send_json(send, method, 200, self._list(table))
        elif method == "OPTIONS":
            await send_answer(send, method, answers.options(path))
        elif path in INFERENCE and method == "POST":
            await self._inference(scope, receive, send)
        else:
            decided = decide(table, method, path, b"")
            await send_answer(send, method, decided if isinstance(decided, Answer) else answers.lost())

    async def _inference(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._room.acquire()
        body = Body(self._room)
        try:
            decided = await self._decide(str(scope["path"]), receive, body)
            if isinstance(decided, Answer):
                await send_answer(send, "POST", decided)
            elif self._relay is None:
                await send_answer(send, "POST", answers.lost())
            else:
                await self._relay.pass_on(scope, receive, send, decided.route.model_id, body)
        except _Gone:
            return
        finally:
            body.drop()

    async def _decide(self, path: str, receive: Receive, body: Body) -> Answer | Forward:
        try:
            async with asyncio.timeout(BODY_LIMIT_S):
                content = await self._read(receive)
        except TimeoutError:
            return answers.refuse(408, "the request did not arrive in time", "request_timeout")
        if content is None:
            return answers.too_large(self._max_body_bytes)
        view = self._view()
        decided = decide(view.table, "POST", path, content)
        if isinstance(decided, Forward):
            if decided.route.model_key in view.full:
                return _full()
            body.content = content
        return decided

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the whole body; None where it is longer than it may be. Raises _Gone."""
        parts: list[bytes] = []
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            more = message.get("more_body", False)
            if length > self._max_body_bytes:
                return None
        return b"".join(parts)

    def _list(self, table: RoutingTable) -> bytes:
        """Give the list of models, rendered once a table: there may be thousands."""
        if self._listed is None or self._listed[0] is not table:
            listed = decide(table, "GET", MODELS, b"")
            self._listed = (table, listed.content() if isinstance(listed, Answer) else b"")
        return self._listed[1]


def _full() -> Answer:
    why = "every slot for a model is taken; the platform's serving.haproxy.max_models would have to be larger"
    return answers.refuse(503, why, "no_slot", _RETRY_FULL_S)


def _readiness(view: DeskView) -> Answer:
    if view.table is None:
        reason = view.trouble or "no routing table is known yet"
        return Answer(503, {"status": "starting", "reason": reason}, {"Retry-After": str(answers.RETRY_STARTING_S)})
    routes = view.table.routes
    facts = {
        "status": "ready",
        "models": len(routes),
        "models_answering": sum(1 for route in routes if route.targets),
        "models_without_slot": len(view.full),
        "replicas": sum(len(route.targets) for route in routes),
        "board_read_s_ago": None if view.read_at is None else round(time.monotonic() - view.read_at, 1),
        "trouble": view.trouble,
    }
    return Answer(200, facts)
