"""A model server that starts in a moment: what Serve and a front do to it is the same as to an engine.

Its app says what reached it. A body with `chunks` is answered by that many events, `every_s` seconds apart; one with
`die_after` ends the process after so many.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ray import serve

from reconciler.core.entities import Workload
from reconciler.shell.front_secret import front_secret
from reconciler.shell.replica_server import ReplicaServer

DRAIN_S = 60.0

Message = MutableMapping[str, Any]


async def echo(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = json.loads(body)
    said = {
        "pid": os.getpid(),
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
        "bytes": len(body),
        "body": asked if len(body) < 1000 else None,
    }
    chunks, die_after = asked.get("chunks"), asked.get("die_after")
    if die_after == 0:
        os._exit(1)
    if chunks is None:
        content = json.dumps(said).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(chunks):
        if number == die_after:
            os._exit(1)
        event = f"data: {json.dumps({'number': number, 'pid': os.getpid()})}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(asked.get("every_s", 0))
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Toy:
    _server: ReplicaServer | None = None

    async def __init__(self, source_path: str, model_key: str, version: str) -> None:  # type: ignore[misc]  # Serve awaits it
        if source_path.endswith("broken"):
            raise RuntimeError("the engine found no weights in its folder")
        if source_path.endswith("endless"):
            await asyncio.sleep(3600)
        if "reconciler" in sys.modules:
            raise RuntimeError("a replica needed Argus itself: something was not sent by value")
        self._server = ReplicaServer(
            echo, secret=front_secret(), model_key=model_key, version=version, is_healthy=lambda: True, settle_s=1.0
        )
        await self._server.start("127.0.0.1")

    def record_replica_metadata(self) -> dict[str, Any]:
        return self._server.metadata() if self._server else {}

    async def __del__(self) -> None:
        if self._server:
            await self._server.drain(DRAIN_S)


def deploy(workload: Workload) -> Any:
    deployment = serve.deployment(
        Toy,
        name=workload.model_key,
        num_replicas=workload.num_replicas,
        max_surge_percent=100 if workload.surge else 0,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=DRAIN_S + 10,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0, "num_gpus": workload.gpus_per_replica},
    )
    return deployment.bind(workload.source_path, workload.model_key, workload.version)
