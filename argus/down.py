"""`argus down`: stop a platform, also one whose supervisor was killed, from what its state folder says."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from argus import home, processes, ray_head
from argus.commands import API, BUILD, RECONCILER, ROUTER
from argus.console import Console
from argus.errors import UpFailed
from argus.supervisor import Command, Service, Supervisor
from argus.up import SUPERVISOR
from reconciler.front.config import PARTS

LIMIT_S = 60.0


def down(state: Path, console: Console, stop_grace_s: float) -> int:
    """Stop the platform of the state folder `state`, whose streams may go on for `stop_grace_s` seconds.

    Gives the exit status. Raises UpFailed where it does not stop.
    """
    if not state.is_dir():
        raise UpFailed(f"there is no state folder {state}")
    if home.is_locked(state):
        _ask_supervisor(state, console, LIMIT_S + stop_grace_s)
        return 0
    processes.become_subreaper()
    with home.locked(state), console.step(f"Stopping what is left of {state}") as step:
        children = Supervisor(state)
        for name in (API, RECONCILER, *PARTS, ROUTER, BUILD, ray_head.NAME):
            left = home.noted(state, name)
            if left:
                children.remember(left[0])
            if left and processes.is_alive(left[0]):
                step.tell(name)
                children.adopt(Service(name, _never), left[0])
                children.end(name)
            home.forget(state, name)
        children.end_everything()
        home.forget(state, SUPERVISOR)
        ray_head.remove_folder(state)
    return 0


def _ask_supervisor(state: Path, console: Console, limit_s: float) -> None:
    left = home.noted(state, SUPERVISOR)
    if left is None or not processes.send(left[0], signal.SIGTERM):
        raise UpFailed(f"the state folder {state} is held by a process that left no note; is it just starting?")
    with console.step(f"Waiting for `argus up` (pid {left[0].pid}) to stop") as step:
        until = time.monotonic() + limit_s
        while home.is_locked(state):
            if time.monotonic() >= until:
                raise UpFailed(f"`argus up` (pid {left[0].pid}) has not stopped in {limit_s:.0f} s")
            step.tell("")
            time.sleep(0.1)


def _never() -> Command:
    raise AssertionError("a process that is being stopped is not started again")
