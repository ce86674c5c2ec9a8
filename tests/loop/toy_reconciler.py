"""A reconciler as a program, on a real ledger and under a real lease, with a cluster in memory.

python toy_reconciler.py URL NAME PATIENCE_S GATE    says on stdout what it does; stops on SIGTERM. It plans its first
pass only when the file GATE is there: so that a test can stop it in the middle.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from reconciler.__main__ import Runner
from reconciler.core.entities import App, Observation
from reconciler.shell.leadership import Keeper, Leadership
from reconciler.shell.ledger import SqlLeases, SqlLedger, open_ledger
from reconciler.testing import MemoryRuntime
from tests.loop.world import World, spec


class Told(MemoryRuntime):
    """A cluster that says what is asked of it."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.session = os.getpid()  # a cluster of its own, which no other process has asked for anything
        self._gate = gate
        self.leadership: Leadership | None = None

    def observe(self) -> Observation:
        seen = super().observe()
        if self.leadership is not None and self.leadership.is_leading():
            say("observed")
            while not self._gate.exists():
                threading.Event().wait(0.01)
        return seen

    def apply(self, app: App) -> None:
        super().apply(app)
        assert self.leadership is not None
        say("applied", self.leadership.token)


def say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    url, name, patience_s, gate = sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    engine = open_ledger(url, 10)
    leadership = Leadership(SqlLeases(engine), name, patience_s)
    runtime = Told(gate)
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.loop.ledger, world.loop.runtime = SqlLedger(engine, leadership.fence), runtime
    world.loop.confirm = leadership.confirm
    runtime.leadership = leadership
    runner = Runner(world.loop, 0.2, leadership.is_leading)
    keeper = Keeper(leadership, patience_s, runner.ask)
    keeper.start()
    runner.start()
    role = None
    while not stop.wait(0.01):
        now = "leader" if leadership.is_leading() else "standby"
        if now != role:
            role = now
            say(role)
    runner.stop()
    keeper.stop()


if __name__ == "__main__":
    main()
