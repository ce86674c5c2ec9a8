"""A model server that starts in a moment: what Serve and a front do to it is the same as to an engine.

Its app says what reached it. A body with `chunks` is answered by that many events, `every_s` seconds apart; one with
`die_after` ends the process after so many. After one with `hang` its engine answers nobody any more.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ray import serve

from reconciler.core.entities import Workload
from reconciler.shell import phases
from reconciler.shell.front_secret import front_secret
from reconciler.shell.pulse import Keeper, Pulse, Rhythm
from reconciler.shell.replica_server import ReplicaServer

DRAIN_S = 60.0
WARM = "warm:"
"""A source with this and a file's path waits for the file before it has started, as an engine for its first answer."""
RHYTHM = Rhythm(limit_s=1.0, look_s=0.1, silent_s=0.2, idle_s=0.2)

Message = MutableMapping[str, Any]


class Engine:
    """What answers in a toy: a process of its own, which may be stopped, and a loop that turns as long as it is not."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "1000"])
        self.hangs = False

    def hang(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.hangs = True

    def end(self) -> None:
        self.process.kill()
        os._exit(1)

    def has_failed(self) -> bool:
        return self.process.poll() is not None

    def is_asked(self) -> bool:
        return False

    async def answer(self) -> None:
        await self.turn()

    async def turn(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()


async def echo(
    engine: Engine, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
) -> None:
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
        "engine": engine.process.pid,
        "body": asked if len(body) < 1000 else None,
    }
    chunks, die_after = asked.get("chunks"), asked.get("die_after")
    if asked.get("hang"):
        engine.hang()
    await engine.turn()
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
    _keeper: Keeper | None = None

    async def __init__(self, source_path: str, model_key: str, version: str) -> None:  # type: ignore[misc]  # Serve awaits it
        if source_path.endswith("broken"):
            raise RuntimeError("the engine found no weights in its folder")
        if source_path.endswith("endless"):
            await asyncio.sleep(3600)
        if "reconciler" in sys.modules:
            raise RuntimeError("a replica needed Argus itself: something was not sent by value")
        engine = Engine()
        self._server = ReplicaServer(
            functools.partial(echo, engine),
            secret=front_secret(),
            model_key=model_key,
            version=version,
            is_healthy=lambda: self._keeper is None or self._keeper.why is None,
            settle_s=1.0,
        )
        await self._server.start("127.0.0.1")
        _, _, let_go = source_path.partition(WARM)
        if let_go:
            phases.tell("warming_up")
            while not os.path.exists(let_go):  # noqa: ASYNC110, ASYNC240  a toy, and a file of the test's
                await asyncio.sleep(0.05)
            phases.forget()
        self._keeper = Keeper(Pulse(engine, RHYTHM), self._server.idle, engine.end)
        self._keeper.start()

    async def check_health(self) -> None:
        if self._keeper:
            self._keeper.check()

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
