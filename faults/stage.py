"""The platform that acts play on: the real `argus up`, one user, and a model A that everybody listens to."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from argus import processes
from faults.audience import Audience
from faults.house import House, build_model
from faults.report import Expectation, Outcome, Times, Write, outcome
from faults.writers import USER as CROWD
from faults.writers import Writers
from tests.e2e.platform import Platform, descendants

USER = "faults"
ENGINE = {"max_model_len": 512}
AFTERWARDS_S = 4.0
"""How long clients go on after an act before it is judged: what it broke may be seen a little later."""

GRACE_S = 60.0
"""How much longer than it may take an act is waited for, so that its row says how long it took."""

LONGEST_DOWN_S = 120.0

SLOWER = {"haproxy": 1.0, "ray": 2.0}
"""How many times as long as promised an act may take to heal, by front.

On two cores Ray's proxy and ingress take half a core from the engines that start beside them: acts took up to 1.8 times
as long there.
"""


class Skipped(Exception):
    """The act cannot be played here. The message says why."""


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens. `run` returns when what runs is what is wanted again. `fronts` are those it is for."""

    name: str
    what: str
    run: Callable[[Stage], None]
    expected: Expectation
    fronts: tuple[str, ...] = ("haproxy", "ray")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What must still be there after an act."""

    token_works: bool
    events: Mapping[str, frozenset[tuple[str, str, str]]]
    running: Mapping[str, str]


@dataclass(slots=True)
class Stage:
    """What an act has in its hands: models' keys and public names by the name that acts know them by, and the rest."""

    house: House
    platform: Platform
    front: str
    clients: int
    keys: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _all_keys: set[str] = field(default_factory=set)
    quiet_gap_s: float | None = None
    _refusals_allowed_until: float = -math.inf
    _deadline: float = 0.0
    _user: httpx.Client = field(init=False)
    _admin: httpx.Client = field(init=False)
    audience: Audience = field(init=False)
    writers: Writers = field(init=False)

    def open(self, writers: int, every_s: float) -> None:
        """Ask for A, and let clients and writers in when it answers."""
        self._deadline = time.monotonic() + 600
        self._admin = self.platform.admin
        self._user = self.platform.user(USER)
        self.create("a")
        self.until_running("a")
        self.audience = Audience(self.platform.openai_port, self.names["a"], self.clients)
        token = (self.house.home / "admin-token").read_text().strip()
        assert self._admin.post("/users", json={"user_id": CROWD}).status_code == 201
        self.writers = Writers(self.platform.api_port, token, writers, every_s)

    def close(self) -> None:
        """Let clients and writers end."""
        self.writers.close()
        self.audience.close()

    def play(self, act: Act) -> Outcome:
        """Let an act happen, and judge it."""
        before = self._inventory()
        expected = replace(act.expected, heal_s=act.expected.heal_s * SLOWER[self.front])
        began, trouble = time.monotonic(), None
        self._deadline = began + expected.heal_s + GRACE_S
        try:
            act.run(self)
        except Skipped as reason:
            return Outcome(act.name, act.what, skipped=str(reason))
        except (AssertionError, OSError, httpx.HTTPError, subprocess.SubprocessError) as error:
            trouble = str(error) or type(error).__name__
        finally:
            self.house.all_off()
        healed = time.monotonic()
        time.sleep(AFTERWARDS_S)
        ended = time.monotonic()
        self.audience.settle()
        lost = self._losses(before)
        self._bury()
        writes = self._writes_to_judge(act)
        if act.expected.writes_fail:
            self._refusals_allowed_until = ended
        return outcome(
            act.name,
            act.what,
            expected,
            list(self.audience.requests),
            Times(began, healed, ended),
            writes=writes,
            lost=lost,
            quiet_gap_s=self.quiet_gap_s,
            trouble=trouble,
        )

    def _writes_to_judge(self, act: Act) -> list[Write]:
        """Give all writes but those that an act before might refuse, and whose writer heard of it late.

        The writers give way to engines: one may read its answer half a minute after it was given.
        """
        writes, allowed_until = list(self.writers.writes), self._refusals_allowed_until
        if act.expected.writes_fail:
            return writes
        return [one for one in writes if one.problem is None or one.began > allowed_until]

    # --- models, as their owner asks for them -----------------------------------------------------------------------

    def create(self, name: str, **spec: Any) -> None:
        """Ask for a model through the API."""
        body = {"model_id": name, "model_source": "$HOME/common/hf/demo", "engine_kwargs": ENGINE, **spec}
        answer = self._admin.post("/serve/models", params={"user_id": USER}, json=body)
        self.keys[name] = str(_good(answer)["model_key"])
        self._all_keys.add(self.keys[name])
        # svc-alice-20260106-123000-4161 answers as alice-202601061230-<its suffix>.
        _, user, day, moment, _ = self.keys[name].split("-")
        self.names[name] = f"{user}-{day}{moment[:4]}-{name}"

    def write(self, name: str, text: bytes) -> None:
        """Make a model's file this text, as it is."""
        headers = {"Content-Type": "application/yaml"}
        answer = self._admin.post("/serve/models", params={"user_id": USER}, content=text, headers=headers)
        assert _good(answer)["model_key"] == self.keys[name], "an update made another model"

    def patch(self, name: str, **fields: Any) -> None:
        """Change a model."""
        _good(self._admin.patch(f"/serve/models/{self.keys[name]}", json=fields))

    def delete(self, name: str) -> None:
        """Delete a model."""
        _good(self._admin.delete(f"/serve/models/{self.keys[name]}"))

    def model(self, name: str) -> dict[str, Any]:
        """Give a model as its owner sees it."""
        return dict(_good(self._admin.get(f"/serve/models/{self.keys[name]}"))["model"])

    def until(self, name: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until a model is so. An API that is away is asked again."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            try:
                seen.update(self.model(name))
            except (AssertionError, httpx.HTTPError) as error:
                seen["error"] = str(error)
                return False
            return is_so(seen)

        self.wait(look, lambda: f"{name}: {seen}")

    def until_running(self, name: str) -> None:
        """Wait until what answers is what is wanted, with no replica too many."""
        seen: dict[str, Any] = {}
        self.wait(lambda: self.is_running(name, seen), lambda: f"{name} has the replicas {self.replicas(name)}: {seen}")

    def is_running(self, name: str, seen: dict[str, Any] | None = None) -> bool:
        """Say whether what answers is what is wanted, with no replica too many. What was `seen` is left there."""
        seen = {} if seen is None else seen
        try:
            seen.update(_good(self._admin.get(f"/serve/models/{self.keys[name]}")))
        except (AssertionError, httpx.HTTPError) as error:
            seen["error"] = str(error)
            return False
        model, deployment = seen["model"], seen["serve_status"]["deployment"] or {}
        wanted = int(model["num_replicas"])
        answers = model["state"] == "RUNNING" and model["serving_commit"] == model["commit"]
        return bool(answers and deployment.get("running") == wanted == len(self.replicas(name)))

    def says(self, name: str) -> str:
        """Chat with a model, through the official client. It is asked by its name: the API may be away."""
        return self.platform.say(self.names[name])

    def until_answering(self) -> None:
        """Wait until a request that begins now is answered by A."""
        began = time.monotonic()
        self.wait(
            lambda: any(one.problem is None and one.began >= began for one in self.audience.requests[-100:]),
            lambda: str(self.audience.requests[-1:]),
        )

    def until_written(self) -> None:
        """Wait until the API takes a write: of a user, who is the smallest thing to ask for."""

        def write() -> bool:
            try:
                return self._admin.post(f"/users/{USER}/tokens", json={}).status_code == 201
            except httpx.HTTPError:
                return False

        self.wait(write, lambda: "the API takes no write")

    def until_passes(self) -> None:
        """Wait until the reconciler has made a pass after now, with nothing wrong."""
        before = self.reconciler().get("last_pass_at")

        def passed() -> bool:
            seen = self.reconciler()
            return bool(seen and seen["last_pass_at"] not in {None, before} and not seen["error"])

        self.wait(passed, lambda: f"no pass: {self.reconciler()}")

    def reconciler(self) -> dict[str, Any]:
        """Give what the platform's status says of the reconciler; nothing where the API does not answer."""
        with suppress(httpx.HTTPError, AssertionError):
            return dict(_good(self._admin.get("/serve/status"))["reconciler"])
        return {}

    def new_token(self) -> None:
        """Give the user a token again, whose own went with the ledger."""

        def issued() -> bool:
            with suppress(httpx.HTTPError, AssertionError):
                self._user = self.platform.client(self.platform.token(USER))
                return True
            return False

        self.wait(issued, lambda: "the user gets no token")

    # --- processes --------------------------------------------------------------------------------------------------

    def processes(self, pattern: str) -> set[int]:
        """Give the platform's processes whose command line matches. All of them are below this one, a subreaper."""
        found = set()
        for pid in descendants(os.getpid()):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if re.search(pattern, command):
                    found.add(pid)
        return found

    def replicas(self, name: str) -> set[int]:
        """Give the process ids of a model's replicas."""
        return self.platform.replicas(self.keys[name])

    def engines(self, name: str) -> set[int]:
        """Give the process ids of a model's engine cores, each below its replica."""
        cores = self.processes("VLLM::EngineCore")
        return {pid for replica in self.replicas(name) for pid in descendants(replica) & cores}

    def kill(self, pattern: str) -> None:
        """`kill -9` one process of the platform, and wait until another stands in its place."""
        victim = min(self.processes(pattern), default=None)
        assert victim is not None, f"there is no process {pattern}"
        os.kill(victim, signal.SIGKILL)
        self.until_replaced(pattern, {victim})

    def until_replaced(self, pattern: str, victims: set[int]) -> None:
        """Wait until none of these processes is there, and another is."""

        def stands_in() -> bool:
            there = self.processes(pattern)
            return bool(there) and not there & victims

        self.wait(stands_in, lambda: f"nothing stands in for {pattern}")

    def wait(self, is_so: Callable[[], bool], explain: Callable[[], str]) -> None:
        """Wait for a condition, looking four times a second, at most until the act's time is up."""
        while not is_so():
            assert time.monotonic() < self._deadline, f"not so in time: {explain()}"
            time.sleep(0.25)

    # --- what must not get lost -------------------------------------------------------------------------------------

    def _inventory(self) -> Inventory:
        details = {}
        for key in self._all_keys:
            with suppress(httpx.HTTPError, AssertionError):
                details[key] = _good(self._admin.get(f"/serve/models/{key}"))
        token_works = False
        with suppress(httpx.HTTPError):
            token_works = self._user.get("/serve/models").status_code == 200
        events = {
            key: frozenset((each["event_type"], each["created_at"], each["commit"]) for each in detail["events"])
            for key, detail in details.items()
        }
        running = {
            key: str(detail["model"]["model_id"])
            for key, detail in details.items()
            if detail["model"]["serving_commit"]  # a version answers, whatever the newest is up to
        }
        return Inventory(token_works, events, running)

    def _losses(self, before: Inventory) -> list[str]:
        """Say what was there before and is not there now."""
        now = self._inventory()
        lost = []
        if before.token_works and not now.token_works:
            lost.append("tokens")
            with suppress(AssertionError):
                self._deadline = time.monotonic() + GRACE_S
                self.new_token()
        if any(not events <= now.events.get(key, frozenset()) for key, events in before.events.items()):
            lost.append("past events")
        lost += [
            f"model {key}"
            for key, model_id in before.running.items()
            if now.running.get(key) != model_id and self._is_wanted(key)
        ]
        acknowledged = {one.commit for one in list(self.writers.writes) if one.commit}
        there = set(self.platform.git("rev-list", "main").split())
        if missing := acknowledged - there:
            lost.append(f"{len(missing)} acknowledged commits")
        return lost

    def _is_wanted(self, key: str) -> bool:
        """Say whether the repository still asks for a model: one that was deleted is not lost."""
        with suppress(httpx.HTTPError, AssertionError):
            return _good(self._admin.get(f"/serve/models/{key}"))["model"]["state"] not in {"DELETING", "DELETED"}
        return True

    def _bury(self) -> None:
        """Wait for the corpses that came to this process, the platform's own among them when it was killed."""
        own = self.platform.process.pid if self.platform.process else 0
        seen = processes.everybody()
        processes.reap(
            each.process
            for each in seen.values()
            if each.zombie and each.parent == os.getpid() and each.process.pid != own
        )


@contextmanager
def stage(
    folder: Path, *, front: str, clients: int, writers: int, every_s: float, logs: Path | None
) -> Iterator[Stage]:
    """Start a platform with A on it, and take it down afterwards. Its logs are kept in `logs`."""
    processes.become_subreaper()
    house = House(folder, front)
    with house.disk():
        build_model(house.home / "private" / "hf" / "demo")
        platform = Platform(house.home, folder, house.config, house.environ)
        made = Stage(house, platform, front, clients)
        try:
            platform.start("--no-demo")
            made.open(writers, every_s)
            yield made
            made.close()
        finally:
            house.all_off()
            _end(platform)
            if logs is not None:
                shutil.copytree(house.home / "logs", logs, dirs_exist_ok=True)
                shutil.copy(platform.log, logs)


def _end(platform: Platform) -> None:
    """Stop the platform, and what a killed one has left."""
    if platform.process is not None and platform.process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            platform.stop()
    down = [sys.executable, "-m", "argus", "down", "--config", str(platform.config), "--home", str(platform.home)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(down, check=False, timeout=LONGEST_DOWN_S, capture_output=True)


def _good(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return dict(answer.json())
