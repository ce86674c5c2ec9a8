"""Children with real, small processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from argus import home, processes
from argus.processes import Process
from argus.supervisor import Command, Death, Service, Supervisor, rotate, tail

TOY = Path(__file__).parent / "toy_platform.py"
SLEEP = "import time; print('here', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"


def within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def service(name: str, program: str, *, restart: bool = True, grace_s: float = 5) -> Service:
    command = Command((sys.executable, "-c", program), dict(os.environ))
    return Service(name, lambda: command, grace_s, restart)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    home.prepare(tmp_path / "state", tmp_path / "state" / "private")
    return tmp_path / "state"


@pytest.fixture
def children(state: Path) -> Iterator[Supervisor]:
    made = Supervisor(state)
    yield made
    for name in ("a", "b"):
        made.end(name)


def test_a_child_killed_with_sigkill_is_started_again(children: Supervisor, state: Path) -> None:
    first = children.start(service("a", SLEEP))
    deaths: list[Death] = []
    processes.send(first, signal.SIGKILL)

    def is_back() -> bool:
        deaths.extend(children.tick())
        return children.process("a") not in {None, first}

    assert within(10, is_back)
    assert [(death.name, death.process, death.status) for death in deaths] == [("a", first, -signal.SIGKILL)]
    second = children.process("a")
    assert second is not None
    assert processes.is_alive(second)
    assert home.noted(state, "a") == (second, {})


def test_a_child_that_cannot_be_noted_is_started_once_and_watched(children: Supervisor, state: Path) -> None:
    (state / "run").rmdir()  # as on a full disk: nothing can be written there
    before = processes.descendants(os.getpid(), processes.everybody())
    first = children.start(service("a", "import time; time.sleep(600)"))
    assert children.process("a") == first
    assert children.tick() == []
    processes.send(first, signal.SIGKILL)
    assert within(10, lambda: bool(children.tick()))
    assert within(10, lambda: children.tick() == [] and children.process("a") is not None)
    second = children.process("a")
    assert second is not None
    assert processes.is_alive(second)
    assert len(processes.descendants(os.getpid(), processes.everybody()) - before) == 1


def test_a_child_in_a_crash_loop_waits_longer_each_time(children: Supervisor) -> None:
    children.start(service("a", "raise SystemExit(3)"))
    deaths: list[float] = []

    def three() -> bool:
        deaths.extend(time.monotonic() for death in children.tick() if death.status == 3)
        return len(deaths) >= 3

    assert within(20, three)
    assert deaths[1] - deaths[0] >= 0.5
    assert deaths[2] - deaths[1] >= 1.0


def test_a_child_that_is_to_run_once_stays_away(children: Supervisor) -> None:
    children.start(service("a", "", restart=False))
    assert within(10, lambda: bool(children.tick()))
    assert children.process("a") is None
    assert not within(1, lambda: children.tick() != [] or children.process("a") is not None)


def test_a_child_deaf_to_sigterm_is_killed_after_its_grace(children: Supervisor) -> None:
    process = children.start(service("a", DEAF, grace_s=0.3))
    assert within(10, lambda: "here" in tail(children.log_path("a")))
    began = time.monotonic()
    children.end("a")
    assert time.monotonic() - began >= 0.3
    assert not processes.is_alive(process)


def test_whoever_asks_twice_does_not_wait_for_the_grace(children: Supervisor) -> None:
    process = children.start(service("a", DEAF, grace_s=60))
    assert within(10, lambda: "here" in tail(children.log_path("a")))
    began = time.monotonic()
    children.end("a", hurry=lambda: True)
    assert time.monotonic() - began < 10
    assert not processes.is_alive(process)


def test_what_a_dead_child_left_behind_is_gone_before_it_starts_again(children: Supervisor, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    first = children.start(service("a", program))
    assert within(10, lambda: pid.exists() and pid.read_text() != "")
    worker = processes.find(int(pid.read_text()))
    assert worker is not None
    processes.send(first, signal.SIGKILL)
    assert within(10, lambda: bool(children.tick()))
    assert not processes.is_alive(worker)


def test_an_adopted_process_is_watched_and_stopped_like_a_child(children: Supervisor) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.DEVNULL, start_new_session=True) as stray:
        process = processes.find(stray.pid)
        assert process is not None
        children.adopt(service("a", SLEEP), process)
        assert children.tick() == []
        processes.send(process, signal.SIGKILL)
        assert within(10, lambda: [death.status for death in children.tick()] == [None])
        assert within(10, lambda: children.tick() == [] and children.process("a") is not None)


def test_a_child_that_is_let_go_lives_on(children: Supervisor, state: Path) -> None:
    process = children.start(service("b", SLEEP))
    children.drop("b")
    children.tick()
    try:
        assert processes.is_alive(process)
        assert home.noted(state, "b") == (process, {})
    finally:
        processes.send(process, signal.SIGKILL)
        within(10, lambda: not processes.is_alive(process))
        processes.reap([process])


def test_a_log_that_grew_too_large_is_set_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 10)
        rotate(log, largest=40)
        writer.write(b"new\n")
    assert log.read_text() == "new\n"
    assert (tmp_path / "a.log.1").read_text() == "old\n" * 10


class Toy:
    """A platform of toy children in a process of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.popen = subprocess.Popen([sys.executable, str(TOY), str(state)], stdout=subprocess.PIPE)
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == b"up\n"
        self.daemon = processes.find(int((state / "daemon.pid").read_text()))
        assert self.daemon is not None

    def everybody(self) -> set[Process]:
        among = processes.everybody()
        leaders = [found[0] for name in ("sleeper", "maker") if (found := home.noted(self.state, name))]
        return processes.belonging(leaders, home.instance(self.state), among)

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        processes.end(self.everybody, grace_s=0)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    made = Toy(tmp_path / "toy")
    yield made
    made.close()


def test_sigterm_leaves_no_descendant_not_even_a_daemon(toy: Toy) -> None:
    everybody = toy.everybody()
    assert len(everybody) >= 3
    assert toy.daemon in everybody
    toy.popen.terminate()
    assert toy.popen.wait(30) == 0
    assert [process for process in everybody if processes.is_alive(process)] == []
    assert toy.everybody() == set()


def test_children_outlive_a_supervisor_that_was_killed_and_are_found_again(toy: Toy) -> None:
    before = toy.everybody()
    toy.popen.kill()
    toy.popen.wait()
    assert toy.everybody() == before
    assert not home.is_locked(toy.state)

    found = home.noted(toy.state, "sleeper")
    assert found is not None
    heir = Supervisor(toy.state)
    heir.adopt(service("sleeper", SLEEP), found[0])
    heir.end_everything(spare=[found[0]])
    assert toy.everybody() == {found[0]}
    heir.end("sleeper")
    assert toy.everybody() == set()
    assert home.noted(toy.state, "sleeper") is None


def test_a_note_on_a_pid_that_somebody_else_has_now_harms_nobody(state: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.DEVNULL, start_new_session=True) as stranger:
        now = processes.find(stranger.pid)
        assert now is not None
        old = Process(now.pid, now.started - 1000)
        home.note(state, "a", old)
        heir = Supervisor(state)
        heir.adopt(service("a", SLEEP, restart=False), old)
        heir.end("a")
        heir.remember(old)
        heir.end_everything()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel has no autogroups")
def test_a_whole_session_can_be_nice_to_others(state: Path) -> None:
    children = Supervisor(state)
    command = Command((sys.executable, "-c", SLEEP), dict(os.environ), group_niceness=10)
    process = children.start(Service("nice", lambda: command, 5))
    try:
        assert Path(f"/proc/{process.pid}/autogroup").read_text().strip().endswith("nice 10")
    finally:
        children.end_everything()
