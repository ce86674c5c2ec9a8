"""A process is its pid and its start time, and nobody else is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from argus import processes, ray_head
from argus.processes import Process, Stat


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        yield child
        child.kill()


def test_a_process_that_runs_is_found_and_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    assert processes.is_alive(found)
    assert processes.send(found, signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM
    assert not processes.is_alive(found)
    assert not processes.send(found, signal.SIGTERM)


def test_a_recycled_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.find(sleeper.pid)
    assert found is not None
    predecessor = Process(found.pid, found.started - 1)
    assert not processes.is_alive(predecessor)
    assert not processes.send(predecessor, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_corpse_does_not_count_as_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    seen = processes.stat(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert seen is not None
    assert not processes.is_alive(seen.process)
    child.wait()


def test_a_command_with_spaces_and_parentheses_in_its_name_is_read_right() -> None:
    program = "open('/proc/self/comm', 'w').write('a) S (b'); print('named', flush=True); import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = processes.stat(child.pid)
        child.kill()
    assert seen is not None
    assert (seen.parent, seen.zombie) == (os.getpid(), False)


NOBODY = 4_190_000
"""Pids from here on are above what the machine gives out, so that no table row meets a real environment."""


def _among(*rows: tuple[int, int, int, int]) -> dict[int, Stat]:
    """Make a process table of rows (pid, parent, session, start time), counted from `NOBODY`."""
    table = {}
    for pid, parent, session, started in rows:
        table[NOBODY + pid] = Stat(Process(NOBODY + pid, started), NOBODY + parent, NOBODY + session, zombie=False)
    return table


LEADER = Process(NOBODY + 10, 100)


@pytest.mark.parametrize(
    ("why", "rows", "expected"),
    [
        ("the leader and its child", [(10, 1, 10, 100), (11, 10, 10, 120)], {10, 11}),
        ("a child that made a session of its own", [(10, 1, 10, 100), (11, 10, 11, 120)], {10, 11}),
        ("an orphan in the session of a dead leader", [(11, 1, 10, 120)], {11}),
        ("a child of that orphan", [(11, 1, 10, 120), (12, 11, 12, 130)], {11, 12}),
        ("strangers", [(10, 1, 10, 100), (20, 1, 20, 50), (21, 20, 20, 200)], {10}),
        ("a new leader of the same number", [(10, 1, 10, 900), (11, 10, 10, 950)], set()),
        ("a member older than the leader", [(11, 1, 10, 99)], set()),
    ],
)
def test_what_belongs_to_a_leader(why: str, rows: list[tuple[int, int, int, int]], expected: set[int]) -> None:
    found = processes.belonging([LEADER], "-", _among(*rows))
    assert {process.pid - NOBODY for process in found} == expected, why


def test_a_head_without_a_raylet_is_seen_as_such() -> None:
    assert not ray_head.has_raylet(os.getpid())
    named = "open('/proc/self/comm', 'w').write('raylet'); print('named', flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", named], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "named\n"
        assert ray_head.has_raylet(os.getpid())
        child.kill()
    assert not ray_head.has_raylet(os.getpid())
