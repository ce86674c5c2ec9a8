"""A crowd that writes through the API all the time, each a model of its own that nobody can serve.

Their models' folder does not exist, so no engine starts; every write is a commit all the same. What was acknowledged is
remembered with its commit, and looked for on the branch after each act.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time

import httpx

from faults.report import Write

USER = "crowd"
TIMEOUT_S = 45.0
"""Longer than a write may take to be refused: the API gives git and the ledger their own limits."""


class Writers:
    """So many clients, each of which writes once every `every_s` seconds on average, at random.

    So they stay a crowd: with a fixed pause, one moment that held all of them up would have them all write at once for
    ever after.
    """

    def __init__(self, api_port: int, token: str, number: int, every_s: float) -> None:
        self.writes: list[Write] = []
        self.number = number
        self._url = f"http://127.0.0.1:{api_port}/api/v2/serve/models"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._every_s = every_s
        self._closing = threading.Event()
        self._at_once = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all(number)), daemon=True)
        self._thread.start()

    def all_at_once(self) -> None:
        """Have every one of them write now."""
        self._at_once.set()
        time.sleep(0.5)
        self._at_once.clear()

    def close(self) -> None:
        """Let every one of them end its write."""
        self._closing.set()
        self._thread.join(TIMEOUT_S + 10)

    async def _all(self, number: int) -> None:
        limits = httpx.Limits(max_connections=number, max_keepalive_connections=number)
        async with httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT_S, limits=limits) as client:
            await asyncio.gather(*(self._one(client, writer) for writer in range(number)))

    async def _one(self, client: httpx.AsyncClient, writer: int) -> None:
        key: str | None = None
        await self._rest(random.expovariate(1 / self._every_s))
        turn = 0
        while not self._closing.is_set():
            turn += 1
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
            self.writes.append(Write(writer, began, time.monotonic(), commit, problem))
            await self._rest(random.expovariate(1 / self._every_s))

    async def _write(self, client: httpx.AsyncClient, writer: int, key: str | None, turn: int) -> httpx.Response:
        if key is None:
            spec = {"model_id": f"w{writer:03}", "model_source": "$HOME/absent", "num_replicas": 1}
            return await client.post(self._url, params={"user_id": USER}, json=spec)
        return await client.patch(f"{self._url}/{key}", json={"num_replicas": 1 + turn % 2})

    async def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._closing.is_set() and not self._at_once.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.4)
