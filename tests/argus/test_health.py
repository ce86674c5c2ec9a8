"""A child that is alive and does nothing, seen by its answers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argus import home, processes
from argus.health import EVERY_S, FAILURES, Health, socket_probe
from argus.supervisor import Command, Death, Service, Supervisor
from reconciler.front.listening import unix_socket
from reconciler.shell.probes import ProbeServer
from reconciler.shell.pulse import Health as Answer
from tests.argus.test_supervisor import within

SERVER = """
import socket, sys, time
from pathlib import Path
from reconciler.front.listening import unix_socket
from reconciler.shell.probes import ProbeServer
from reconciler.shell.pulse import Health
path = Path(sys.argv[1])
ProbeServer(unix_socket(path.parent, path.name), {"/healthz": lambda: Health(True, {"status": "ok"})})
time.sleep(600)
"""


class Child:
    """Something to be asked, at a time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.well = True
        self.asked = 0
        self.health = Health(self, self.now)

    def __call__(self) -> bool:
        self.asked += 1
        return self.well

    def rounds(self, count: int) -> bool:
        """Let it be asked `count` times, and say whether it counts as hung then."""
        for _ in range(count):
            self.now += EVERY_S
            before = self.asked
            self.health.is_hung(self.now)
            assert within(20, lambda before=before: self.asked > before)  # type: ignore[misc]  # bound now
            assert within(20, lambda: not self.health._thread or not self.health._thread.is_alive())
        return self.health.is_hung(self.now)


def test_a_child_that_answers_is_never_hung() -> None:
    assert not Child().rounds(10)


def test_a_child_that_never_answered_is_still_starting() -> None:
    child = Child()
    child.well = False
    assert not child.rounds(10)


def test_a_child_that_answered_and_fails_three_times_in_a_row_is_hung() -> None:
    child = Child()
    assert not child.rounds(1)
    child.well = False
    assert not child.rounds(FAILURES - 1)
    child.well = True
    assert not child.rounds(1)
    child.well = False
    assert child.rounds(FAILURES)


def test_a_child_is_asked_every_five_seconds_and_not_at_each_tick() -> None:
    child = Child()
    child.rounds(1)
    for _ in range(20):
        child.health.is_hung(child.now)
    assert child.asked == 1


@pytest.mark.parametrize(
    ("answer", "is_good"),
    [
        (Answer(ok=True, facts={"status": "ok"}), True),
        (Answer(ok=True, facts={"status": "starting"}), False),
        (Answer(ok=False, facts={"status": "ok"}), False),
    ],
)
def test_only_a_process_that_has_started_and_is_well_answers_well(
    tmp_path: Path, answer: Answer, is_good: bool
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    server = ProbeServer(unix_socket(deep, "s.sock"), {"/healthz": lambda: answer})
    try:
        assert socket_probe(deep / "s.sock", "/healthz")() is is_good
        assert socket_probe(deep / "s.sock", "/nothing")() is False
    finally:
        server.stop()


def test_nobody_who_listens_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"refused|No such file"):
        socket_probe(tmp_path / "s.sock", "/healthz")()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def children(tmp_path: Path, clock: list[float]) -> Iterator[Supervisor]:
    state = tmp_path / "state"
    home.prepare(state, state / "private")
    made = Supervisor(state, clock=lambda: clock[0])
    yield made
    made.end("a")


def test_a_stopped_child_is_killed_and_started_again(children: Supervisor, clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    command = Command((sys.executable, "-c", SERVER, str(path)), {**os.environ, "PYTHONPATH": os.getcwd()})
    ask = socket_probe(path, "/healthz", timeout_s=2)
    first = children.start(Service("a", lambda: command, probe=ask))
    deaths: list[Death] = []

    def turn() -> bool:
        clock[0] += EVERY_S
        deaths.extend(children.tick())
        return bool(deaths)

    assert within(60, path.exists)
    assert within(20, lambda: _answers(ask))
    child = children._children["a"]
    assert within(20, lambda: not turn() and child.health is not None and child.health._has_answered)
    processes.send(first, signal.SIGSTOP)
    assert within(60, turn)
    assert deaths[0].hung
    assert deaths[0].status == -signal.SIGKILL
    assert "answered no more" in str(deaths[0])
    assert within(20, lambda: turn() and children.process("a") not in {None, first})


def _answers(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError:
        return False
