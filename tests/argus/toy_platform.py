"""A supervisor with toy children, as a program: so that a test can kill it, and be sure of who its descendants are.

python toy_platform.py HOME   prints a line when its children run, and stops on SIGTERM.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from argus import home, processes
from argus.errors import Stopped
from argus.supervisor import Command, Service, Supervisor
from argus.waiting import Waiting

SLEEPER = "import time; time.sleep(600)"

# Starts a daemon the classic way: a session of its own, and a parent that is gone at once.
DAEMON_MAKER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


def main() -> None:
    state = Path(sys.argv[1])
    home.prepare(state, state / "private")
    processes.become_subreaper()
    children = Supervisor(state, owns_orphans=True)

    def look() -> None:
        children.tick()

    waiting = Waiting(look)
    daemon = state / "daemon.pid"
    with waiting.listening(), home.locked(state):
        children.start(Service("sleeper", lambda: _command(SLEEPER)))
        children.start(Service("maker", lambda: _command(DAEMON_MAKER, str(daemon))))
        try:
            waiting.until(daemon.exists, 30)
            print("up", flush=True)
            while True:
                waiting.tick()
        except Stopped:
            for name in ("sleeper", "maker"):
                children.end(name)
            children.end_everything()


def _command(program: str, *arguments: str) -> Command:
    return Command((sys.executable, "-c", program, *arguments), dict(os.environ))


if __name__ == "__main__":
    main()
