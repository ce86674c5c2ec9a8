"""What a replica does before Serve calls it running: it answers a request of its own, or says why it does not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.core import wire
from reconciler.shell.replica_server import Message, Receive, ReplicaServer, Scope, Send
from tests.contracts.toy_replica import wait_for

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
OF: dict[str, Any] = {"model_key": "k", "version": "v", "is_healthy": lambda: True}


@pytest.fixture(scope="module")
def engine() -> Any:
    from reconciler.shell import engine

    return engine


class Engine:
    """An app that gives one answer, and keeps what it was asked."""

    def __init__(self, status: int, body: bytes) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._status = status
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = await receive()
        self.asked.append((scope["path"], json.loads(message["body"])))
        await send({"type": "http.response.start", "status": self._status, "headers": []})
        await send({"type": "http.response.body", "body": self._body})


def first_answer(engine: Any, app: Engine, shown: str = "s") -> None:
    async def ask() -> None:
        server = ReplicaServer(app, secret="s", model_key="k", version="v", is_healthy=lambda: True, settle_s=0)
        address = await server.start("127.0.0.1")
        try:
            await engine._answer(address, shown, "/v1/completions", {"model": "m"})
        finally:
            await server.drain(0)

    asyncio.run(ask())


def test_the_first_request_comes_in_by_the_replicas_own_door(engine: Any) -> None:
    app = Engine(200, b"{}")
    first_answer(engine, app)
    assert app.asked == [("/v1/completions", {"model": "m"})]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no room for a KV cache"}}', "no room for a KV cache"),
        (b"something else", "500 something else"),
        (b'["odd"]', "500 "),
    ],
)
def test_an_engine_that_does_not_answer_fails_in_its_own_words(engine: Any, body: bytes, words: str) -> None:
    with pytest.raises(RuntimeError, match=f"does not answer: {words}"):
        first_answer(engine, Engine(500, body))


def test_a_replica_that_its_own_gate_refuses_does_not_start(engine: Any) -> None:
    with pytest.raises(RuntimeError, match="from the platform's front only"):
        first_answer(engine, Engine(200, b"{}"), shown="another")


@pytest.mark.parametrize(
    ("handlers", "path"),
    [
        ({"openai_serving_completion": object(), "serving_embedding": None}, "/v1/completions"),
        ({"openai_serving_completion": None, "serving_embedding": object(), "serving_scores": 1}, "/v1/embeddings"),
        ({"serving_scores": object(), "serving_classification": object()}, "/score"),
        ({"serving_classification": object()}, "/classify"),
    ],
)
def test_each_kind_of_engine_is_asked_what_it_can_answer(engine: Any, handlers: dict[str, Any], path: str) -> None:
    asked = engine._a_request(SimpleNamespace(**handlers), "m")
    assert asked is not None
    assert (asked[0], asked[1]["model"]) == (path, "m")
    assert path in wire.INFERENCE


def test_an_engine_of_no_known_kind_is_not_asked(engine: Any) -> None:
    assert engine._a_request(SimpleNamespace(), "m") is None


class Core:
    """vLLM's client of its engine process, as far as a pulse touches it."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[str] = asyncio.Queue()

    async def get_output_async(self) -> str:
        return await self.outputs.get()


class Client:
    """vLLM's AsyncLLM, as far as a pulse touches it."""

    errored = False

    def __init__(self) -> None:
        self.engine_core = Core()
        self.turns = 0

    async def is_sleeping(self) -> bool:
        self.turns += 1
        return False


def test_every_step_of_an_engine_is_a_beat_and_nothing_of_it_is_lost(engine: Any) -> None:
    async def test() -> None:
        client, beats = Client(), []
        watched = engine.WatchedEngine(client, ReplicaServer(Engine(200, b""), secret="s", **OF), None)
        waiting = asyncio.create_task(client.engine_core.get_output_async())  # as vLLM's own task does, from before
        await asyncio.sleep(0)
        watched.tell(lambda: beats.append(1))
        for given in ("first", "second", "third"):
            client.engine_core.outputs.put_nowait(given)
        assert await waiting == "first"
        assert [await client.engine_core.get_output_async() for _ in range(2)] == ["second", "third"]
        assert len(beats) == 2

    asyncio.run(test())


def test_an_engine_is_asked_by_its_own_door_until_its_replica_goes(engine: Any) -> None:
    async def test() -> None:
        client, app = Client(), Engine(200, b"{}")
        server = ReplicaServer(app, secret="s", settle_s=0, **OF)
        address = await server.start("127.0.0.1")
        watched = engine.WatchedEngine(
            client, server, lambda: engine._answer(address, "s", "/v1/completions", {"model": "m"})
        )
        assert not watched.has_failed()
        assert not watched.is_asked()
        await watched.answer()
        assert (len(app.asked), client.turns) == (1, 0)
        await server.drain(0)
        await watched.answer()
        assert (len(app.asked), client.turns) == (1, 1)
        client.errored = True
        assert watched.has_failed()

    asyncio.run(test())


REPLICA = """
import asyncio, os, signal, subprocess, sys
from types import SimpleNamespace
from reconciler.shell import engine

class Hangs(engine.ModelServer):
    async def _start(self, watch):
        core = subprocess.Popen(["sleep", "1000"])
        core.send_signal(signal.SIGSTOP)
        print(core.pid, flush=True)
        core.wait()
        raise RuntimeError("Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}")

    async def __del__(self):
        pass

hangs = object.__new__(Hangs)
said = "(EngineCore pid=7) INFO 11-24 06:16:57 [core.py:99] Loading shards: 1 of 30"
hangs._load_s = 0.5
hangs._output = SimpleNamespace(printed=lambda: 7, lines=lambda: [said], kernel_killed=lambda: False)
try:
    asyncio.run(hangs.start())
except RuntimeError as error:
    print(repr(str(error)), flush=True)

stopped = subprocess.Popen(["sleep", "1000"])
stopped.send_signal(signal.SIGSTOP)
subprocess.Popen(["sh", "-c", 'cat; touch "$1"', "resource_tracker", sys.argv[1]], stdin=subprocess.PIPE)
print(stopped.pid, flush=True)
engine.end_process()
"""


def test_a_replica_takes_even_stopped_processes_with_it_when_its_load_hangs_and_when_it_ends(tmp_path: Path) -> None:
    tidied = tmp_path / "tidied"
    ended = subprocess.run(
        [sys.executable, "-c", REPLICA, str(tidied)], capture_output=True, text=True, cwd=ROOT, timeout=250, check=False
    )
    assert ended.returncode == 1, ended.stderr
    core, why, other = ended.stdout.splitlines()[-3:]
    assert why.startswith("'the engine did not start: it hangs: loading weights for ")
    assert why.endswith("Its last lines:\\nLoading shards: 1 of 30'")
    for pid in (core, other):
        status = Path("/proc", pid, "status")
        assert not status.exists() or "State:\tZ" in status.read_text()
    wait_for(tidied.exists, "what removes the shared memory of the dead was killed")
