"""The platform that acts play on: the real `argus up`, one user, and a model A that everybody listens to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from faults.audience import Audience
from faults.report import Expectation, Outcome, Times, outcome
from tests.e2e.platform import Platform, wait_until

ENGINE = {"max_model_len": 512}
AFTERWARDS_S = 4.0
"""How long clients go on after an act before it is judged: what it broke may be seen a little later."""


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens. `run` returns when what runs is what is wanted again."""

    name: str
    what: str
    run: Callable[[Stage], None]
    expected: Expectation


class Stage:
    """What an act has in its hands."""

    def __init__(self, platform: Platform, user: httpx.Client, clients: int) -> None:
        self.platform = platform
        self.user = user
        self.keys: dict[str, str] = {}
        self.create("a")
        self.until_running("a")
        name = self.model("a")["model_id"]
        self.audience = Audience(platform.openai_port, name, clients)

    def play(self, act: Act) -> Outcome:
        """Let an act happen and judge it."""
        began, trouble = time.monotonic(), None
        try:
            act.run(self)
        except AssertionError as error:
            trouble = str(error)
        healed = time.monotonic()
        time.sleep(AFTERWARDS_S)
        times = Times(began, healed, time.monotonic())
        return outcome(act.what, act.expected, self.audience.requests, times, trouble)

    def create(self, name: str, **spec: Any) -> None:
        """Ask for a model through the API."""
        body = {"model_id": name, "model_source": "$HOME/common/hf/demo", "engine_kwargs": ENGINE, **spec}
        self.keys[name] = str(_good(self.user.post("/serve/models", json=body))["model_key"])

    def patch(self, name: str, **fields: Any) -> None:
        """Change a model."""
        _good(self.user.patch(f"/serve/models/{self.keys[name]}", json=fields))

    def delete(self, name: str) -> None:
        """Delete a model."""
        _good(self.user.delete(f"/serve/models/{self.keys[name]}"))

    def model(self, name: str) -> dict[str, Any]:
        """Give a model as its owner sees it."""
        return dict(_good(self.user.get(f"/serve/models/{self.keys[name]}"))["model"])

    def until(self, name: str, is_so: Callable[[dict[str, Any]], bool], longest_s: float = 300) -> None:
        """Wait until a model is so. An API that is away is asked again."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            try:
                seen.update(self.model(name))
            except httpx.TransportError as error:
                seen["error"] = str(error)
                return False
            return is_so(seen)

        wait_until(look, longest_s, lambda: f"{name}: {seen}")

    def until_running(self, name: str) -> None:
        """Wait until what answers is what is wanted, with no replica too many."""
        self.until(name, lambda model: model["state"] == "RUNNING" and model["serving_commit"] == model["commit"])
        wanted = int(self.model(name)["num_replicas"])
        wait_until(lambda: len(self.replicas(name)) == wanted, 300, lambda: f"{name}: {self.replicas(name)}")

    def replicas(self, name: str) -> set[int]:
        """Give the process ids of a model's replicas."""
        return self.platform.replicas(self.keys[name])

    def kill(self, pattern: str) -> None:
        """`kill -9` one process of the platform, and wait until another stands in its place."""
        victim = min(self.platform.processes(pattern))
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: bool(self.platform.processes(pattern) - {victim}), 120, lambda: f"nothing stands in for {pattern}"
        )

    def until_answering(self, longest_s: float = 300) -> None:
        """Wait until a request that begins now is answered by A."""
        began = time.monotonic()
        wait_until(
            lambda: any(one.problem is None and one.began >= began for one in self.audience.requests[-100:]),
            longest_s,
            lambda: str(self.audience.requests[-1:]),
        )


@contextmanager
def stage(folder: Path, clients: int) -> Iterator[Stage]:
    """Start a platform with A on it, and take it down afterwards."""
    model = folder / "home" / "private" / "hf" / "demo"
    model.parent.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "argus.demo_model", str(model)], check=True, stdout=subprocess.DEVNULL)
    platform = Platform(folder / "home", folder)
    try:
        platform.start("--no-demo")
        made = Stage(platform, platform.user("faults"), clients)
        yield made
        made.audience.close()
    finally:
        if platform.process is not None and platform.process.poll() is None:
            platform.stop()


def _good(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return dict(answer.json())
