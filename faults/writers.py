"""A crowd that writes through the API all the time, each a model of its own that nobody can serve.

Their models' folder does not exist, so no engine starts; every write is a commit all the same. What was acknowledged is
remembered with its commit, and looked for on the branch after each act.

They are a process of their own (`python -m faults.writers PORT WRITERS EVERY_S`) which gives way to engines: on a real
platform they would be on other machines. It reads the admin's token from its standard input, where each further line
has all of them write at once; it prints a line of JSON a write, and ends when that input does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import httpx

from faults.report import Write
from faults.teller import Teller

USER = "crowd"
TIMEOUT_S = 120.0
"""Longer than a write may take to be refused: the API gives git and the ledger their own limits.

And longer than this process may be kept from the CPU: beside three engines on two cores it gets one percent of one, and
its own clock ran out at 45 s before it had looked at connections that were long there.
"""

GROUP_NICENESS = 10


class Writers:
    """So many clients, each of which writes once every `every_s` seconds on average, at random.

    So they stay a crowd: with a fixed pause, one moment that held all of them up would have them all write at once for
    ever after.
    """

    def __init__(self, api_port: int, token: str, number: int, every_s: float) -> None:
        self.writes: list[Write] = []
        self.number = number
        self._process = Teller(__name__, api_port, number, every_s, take=lambda said: self.writes.append(Write(**said)))
        with suppress(OSError):  # a kernel that does not share the CPU out by sessions
            Path(f"/proc/{self._process.pid}/autogroup").write_text(f"{GROUP_NICENESS}\n", encoding="ascii")
        self._process.say(token)

    def all_at_once(self) -> None:
        """Have every one of them write now."""
        self._process.say("now")

    def close(self) -> None:
        """Let every one of them end its write."""
        self._process.close(TIMEOUT_S + 10)


class _Crowd:
    """The writers, in their own process."""

    def __init__(self, api_port: int, token: str, every_s: float) -> None:
        self._url = f"http://127.0.0.1:{api_port}/api/v2/serve/models"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._every_s = every_s
        self._closing = asyncio.Event()
        self._roused = asyncio.Event()

    def rouse(self) -> None:
        """Have all of them write now."""
        self._roused.set()
        self._roused = asyncio.Event()

    def close(self) -> None:
        """Let all of them end."""
        self._closing.set()
        self.rouse()

    async def write(self, number: int) -> None:
        """Write until `close`."""
        # A connection a write, as from so many machines. In a process that starves, httpx closes a kept one as expired
        # after it has sent a request's head on it.
        limits = httpx.Limits(max_connections=number, max_keepalive_connections=0)
        async with httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT_S, limits=limits) as client:
            await asyncio.gather(*(self._one(client, writer) for writer in range(number)))

    async def _one(self, client: httpx.AsyncClient, writer: int) -> None:
        key: str | None = None
        await self._rest(self._roused)
        turn = 0
        while not self._closing.is_set():
            turn += 1
            roused = self._roused
            began, commit, problem = time.monotonic(), None, None
            try:
                answer = await self._write(client, writer, key, turn)
                if answer.is_success:
                    said = answer.json()
                    key, commit = str(said["model_key"]), str(said["commit"])
                else:
                    problem = f"{answer.status_code} {answer.text[:200]}"
            except (httpx.HTTPError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            print(json.dumps(asdict(Write(writer, began, time.monotonic(), commit, problem))), flush=True)
            await self._rest(roused)

    async def _write(self, client: httpx.AsyncClient, writer: int, key: str | None, turn: int) -> httpx.Response:
        if key is None:
            spec = {"model_id": f"w{writer:03}", "model_source": "$HOME/absent", "num_replicas": 1}
            return await client.post(self._url, params={"user_id": USER}, json=spec)
        return await client.patch(f"{self._url}/{key}", json={"num_replicas": 1 + turn % 2})

    async def _rest(self, roused: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(roused.wait(), random.expovariate(1 / self._every_s))


async def _main(api_port: int, number: int, every_s: float) -> None:
    crowd = _Crowd(api_port, sys.stdin.readline().strip(), every_s)
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(crowd.rouse)
        loop.call_soon_threadsafe(crowd.close)

    threading.Thread(target=listen, daemon=True).start()
    await crowd.write(number)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
