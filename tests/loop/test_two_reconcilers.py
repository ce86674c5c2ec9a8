"""Two reconcilers on one real ledger: in one process, and as processes that are stopped, killed and woken up."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.__main__ import Runner
from reconciler.core.entities import State
from reconciler.shell.leadership import Keeper, Leadership
from reconciler.shell.ledger import LedgerReader, SqlLeases, SqlLedger, open_ledger
from tests.loop.test_runner import until
from tests.loop.world import World, spec

TOY = Path(__file__).parent / "toy_reconciler.py"
PATIENCE_S = 1.0
SOON_S = 60.0


def test_one_works_and_the_other_goes_on_where_it_stopped(tmp_path: Path) -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 5)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        leaderships = [Leadership(SqlLeases(engine), name, PATIENCE_S) for name in ("a", "b")]
        keepers = []
        for leadership in leaderships:
            world.restart()
            world.loop.ledger = SqlLedger(engine, leadership.fence)
            world.loop.confirm = leadership.confirm
            runner = Runner(world.loop, 0.2, leadership.is_leading)
            keeper = Keeper(leadership, PATIENCE_S, runner.ask)
            keepers.append(keeper)
            keeper.start()
            runner.start()
            stack.callback(runner.stop)
            stack.callback(keeper.stop)

        def states() -> list[State]:
            world.runtime.step()
            return sorted(record.state for record in LedgerReader(engine).models(None).values())

        until(lambda: states() == [State.RUNNING])
        assert [each.token for each in leaderships] == [1, None]
        keepers[0].stop()
        until(leaderships[1].is_leading)
        world.write("alice", "llama", spec("llama"))
        until(lambda: states() == [State.RUNNING, State.RUNNING])
        assert leaderships[0].token is None


class Toy:
    """A reconciler in a process of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.gate = folder / f"{name}.gate"
        url = f"sqlite:///{folder / 'ledger.sqlite'}"
        command = [sys.executable, str(TOY), url, name, str(PATIENCE_S), str(self.gate)]
        root = str(TOY.parents[2])
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root, env={"PYTHONPATH": root}
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def hears(self, line: str) -> None:
        """Wait until it says so."""
        while line not in self.said:
            self.said.append(self._lines.get(timeout=SOON_S))

    def open(self) -> None:
        """Let it go on with its first pass."""
        self.gate.touch()

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        try:
            for line in self.popen.stdout:
                self._lines.put(line.strip())
        except ValueError:
            return  # closed at the end


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Toy]]:
    with ExitStack() as stack:

        def begin(name: str) -> Toy:
            toy = Toy(tmp_path, name)
            stack.callback(toy.close)
            return toy

        yield begin


Start = Callable[[str], Toy]


def test_a_leader_stopped_in_the_middle_of_a_pass_applies_nothing_when_it_wakes_up(start: Start) -> None:
    paused = start("a")
    paused.hears("observed")
    paused.popen.send_signal(signal.SIGSTOP)
    other = start("b")
    other.open()
    other.hears("applied 2")
    paused.open()
    paused.popen.send_signal(signal.SIGCONT)
    paused.hears("standby")
    other.popen.send_signal(signal.SIGTERM)
    assert other.popen.wait(SOON_S) == 0
    paused.hears("applied 3")  # a pass of its own, under a lease of its own
    assert "applied 1" not in paused.said


def test_a_leader_killed_is_followed_and_one_that_is_asked_to_stop_gives_its_place_up(start: Start) -> None:
    first = start("a")
    first.open()
    first.hears("applied 1")
    second = start("b")
    second.hears("standby")
    second.open()
    first.popen.kill()
    second.hears("applied 2")
    third = start("c")
    third.hears("standby")
    third.open()
    second.popen.send_signal(signal.SIGTERM)
    assert second.popen.wait(SOON_S) == 0
    third.hears("applied 3")
