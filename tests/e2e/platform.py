"""A platform of a test's own: the real `argus up` in a process, spoken to as users do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from tests.processes import free_port

ROOT = Path(__file__).parents[2]
LONGEST_START_S = 420
LONGEST_CHANGE_S = 300
LONGEST_STOP_S = 150
HAPROXY = r"haproxy .*-f haproxy\.cfg"
BODIES = r"haproxy .*-f bodies\.cfg"
ROUTER = r"argus router"


class Platform:
    """`argus up` on a state folder, started and stopped as by hand. `environ` comes on top of this process's own."""

    def __init__(
        self, home: Path, logs: Path, config: Path = ROOT / "dev.yaml", environ: Mapping[str, str] | None = None
    ) -> None:
        self.home, self.log, self.config = home, logs / "up.log", config
        self._environ = dict(environ or {})
        self.api_port, self.openai_port, self.metrics_port = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Run `argus up` and wait until it says that it is ready."""
        flags = ["--config", str(self.config), "--home", str(self.home)]
        flags += ["--api-port", str(self.api_port), "--openai-port", str(self.openai_port)]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ARGUS_")}
        environ |= {**self._environ, "ARGUS_METRICS_PORT": str(self.metrics_port)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "argus", "up", *flags, *more], stdout=log, stderr=subprocess.STDOUT, env=environ
            )
        wait_until(self._is_ready, LONGEST_START_S, lambda: self.log.read_text()[-3000:])

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "Argus is ready" in self.log.read_text()

    def stop(self) -> int:
        """Ask for an end as a terminal or systemd does, and give the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONGEST_STOP_S)

    @property
    def admin(self) -> httpx.Client:
        return self.client((self.home / "admin-token").read_text().strip())

    def client(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.api_port}/api/v2", headers=headers, timeout=30)

    def user(self, user_id: str) -> httpx.Client:
        """Make a user with a token, and give a client that speaks as they do."""
        assert self.admin.post("/users", json={"user_id": user_id}).status_code == 201
        return self.client(self.token(user_id))

    def token(self, user_id: str) -> str:
        answer = self.admin.post(f"/users/{user_id}/tokens", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    @property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.openai_port}/v1", api_key="none", max_retries=0, timeout=60)

    def say(self, model: str, text: str = "Hello") -> str:
        """Chat once through the official client."""
        answer = self.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=48, temperature=0
        )
        return answer.choices[0].message.content or ""

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.home / "specs.git"), *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout

    def detail(self, client: httpx.Client, key: str) -> dict[str, Any]:
        answer = client.get(f"/serve/models/{key}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def until(self, client: httpx.Client, key: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a model's detail is so, and give it."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.detail(client, key))
            return is_so(seen)

        wait_until(look, LONGEST_CHANGE_S, lambda: str(seen))
        return seen

    def replicas(self, model_key: str) -> set[int]:
        """Give the process ids of a model's replicas: Ray names each process after what it runs."""
        return _processes(rf"ray::ServeReplica:argus_llm_app:{re.escape(model_key)}")

    def front(self) -> set[int]:
        """Give the process ids of the front: both HAProxys and the router."""
        return self.processes(HAPROXY) | self.processes(BODIES) | self.processes(ROUTER)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Send a request to the models' port as it is."""
        return httpx.post(f"http://127.0.0.1:{self.openai_port}{path}", json=body, timeout=60)

    def processes(self, pattern: str) -> set[int]:
        """Give the processes below `argus up` whose command line matches."""
        assert self.process is not None
        return _processes(pattern) & descendants(self.process.pid)


@dataclass
class Listener:
    """A user who streams from a model all the time, one request after the other, and counts what goes wrong."""

    platform: Platform
    model: str
    tokens_each: int = 100
    requests: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    longest_gap_s: float = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        client = self.platform.openai
        while not self._stop.is_set():
            try:
                self._once(client)
            except Exception as error:  # whatever it is, a user would have seen it
                self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.1)

    def _once(self, client: OpenAI) -> None:
        stream = client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=self.tokens_each,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        last, finish = time.monotonic(), None
        for chunk in stream:
            now = time.monotonic()
            self.longest_gap_s, last = max(self.longest_gap_s, now - last), now
            if chunk.choices:
                self.tokens += 1
                finish = chunk.choices[0].finish_reason or finish
        self.requests += 1
        if finish != "length":
            self.failures.append(f"a stream ended with {finish}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(120)


def wait_until(is_so: Callable[[], bool], longest_s: float, explain: Callable[[], str]) -> None:
    """Wait for a condition, looking five times a second."""
    deadline = time.monotonic() + longest_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {longest_s} s: {explain()}"
        time.sleep(0.2)


def descendants(pid: int) -> set[int]:
    """Give all processes below `pid`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def _processes(pattern: str) -> set[int]:
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = cmdline.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(pattern, command):
            found.add(int(cmdline.parent.name))
    return found
