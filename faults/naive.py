"""The same audience of Ray's documented way: a `serve.run(build_openai_app(...))` for each change. It is not judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from argus import processes
from faults.audience import Audience
from faults.house import build_model
from faults.report import Outcome, Times, outcome
from faults.stage import AFTERWARDS_S, ENGINE
from tests.processes import free_port

QUIET_S = 15.0
LONGEST_CHANGE_S = 300.0

_B, _UPDATED = ENGINE, {**ENGINE, "max_num_seqs": 24}
ACTS: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
    ("naive-quiet", "Ray's documented way: nothing, for comparison", None),
    ("naive-add-b", "Ray's documented way: add B", {"a": ENGINE, "b": _B}),
    ("naive-update-b", "Ray's documented way: update B", {"a": ENGINE, "b": _UPDATED}),
    ("naive-remove-b", "Ray's documented way: delete B", {"a": ENGINE}),
)


class App:
    """A process that keeps an application as it is told. What it says goes to `log`."""

    def __init__(self, port: int, folder: Path, log: Path) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._log = log
        argv = [sys.executable, "-m", "faults.naive_app", str(port), str(folder)]
        environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, env=environ
            )

    def hold(self, models: dict[str, Any]) -> None:
        """Have the application hold these models, and wait until each answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(models), file=self.process.stdin, flush=True)
        deadline = time.monotonic() + LONGEST_CHANGE_S
        late = threading.Timer(LONGEST_CHANGE_S, self.process.kill)  # `serve.run` itself waits without a limit
        late.start()
        said = self.process.stdout.readline()
        late.cancel()
        assert said == "ok\n", self._log.read_text(errors="replace")[-2000:]
        while not all(self._answers(name) for name in models):
            assert time.monotonic() < deadline, "a model does not answer"
            time.sleep(0.25)

    def _answers(self, name: str) -> bool:
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        try:
            return httpx.post(self._url, json=body, timeout=60).status_code == 200
        except httpx.HTTPError:
            return False


def play(folder: Path, clients: int, deadline: float) -> Iterator[Outcome]:
    """Play all acts, none of which begins after `deadline` (`time.monotonic()`)."""
    folder.mkdir()
    build_model(folder / "demo")
    port = free_port()
    with _app(port, folder) as app:
        app.hold({"a": ENGINE})
        audience = Audience(port, "a", clients)
        time.sleep(AFTERWARDS_S)
        for name, what, models in ACTS:
            if time.monotonic() > deadline:
                yield Outcome(name, what, skipped="the budget was spent before its turn", judged=False)
                continue
            began, trouble = time.monotonic(), None
            try:
                time.sleep(QUIET_S) if models is None else app.hold(models)
            except AssertionError as error:
                trouble = str(error)
            healed = time.monotonic()
            time.sleep(AFTERWARDS_S)
            times = Times(began, healed, time.monotonic())
            audience.settle()
            yield outcome(name, what, None, list(audience.requests), times, trouble=trouble)
        audience.close()


@contextmanager
def _app(port: int, folder: Path) -> Iterator[App]:
    """Run the application, and end it with all that it has started."""
    processes.become_subreaper()
    app = App(port, folder / "demo", folder / "app.log")
    try:
        yield app
    finally:
        before = processes.descendants(os.getpid(), processes.everybody())
        app.process.send_signal(signal.SIGTERM)
        try:
            app.process.wait(30)
        except subprocess.TimeoutExpired:
            app.process.kill()

        def left() -> set[processes.Process]:
            among = processes.everybody()
            below = processes.descendants(os.getpid(), among) & before
            return {among[pid].process for pid in below if pid in among and not among[pid].zombie}

        processes.end(left, grace_s=5.0)
