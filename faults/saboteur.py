"""Kills the reconciler at a chosen point of a pass, from inside, with SIGKILL: no more warning than a power failure.

A point is armed by a file of its name in the folder of switches; the file is gone when it has gone off.
"""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

BEFORE_APPLY = "before-apply"
"""The commit is on the branch and the plan is made; nothing of it has been applied."""

BEFORE_RECORD = "before-record"
"""The plan has been applied; the ledger does not know."""

PUBLISHING = "publishing"
"""In the transaction that puts up a new routing table, before its commit."""


def install(folder: str) -> None:
    """Make this process's reconciler die where a switch in `folder` says."""
    from reconciler import loop

    board: Any = importlib.import_module("reconciler.shell.ledger.board")  # its imports are not its exports
    switches = Path(folder)
    once, put_up = loop.Reconciler.reconcile_once, board.upsert

    def reconcile_once(self: loop.Reconciler) -> Any:
        runtime, ledger = self.runtime, self.ledger
        if not isinstance(runtime, _Runtime):
            self.runtime = watched = _Runtime(runtime, switches / BEFORE_APPLY)
            self.ledger = _Ledger(ledger, switches / BEFORE_RECORD, watched)
        self.runtime.applied = False  # type: ignore[attr-defined]  # it is a _Runtime now
        return once(self)

    def upsert(*arguments: Any) -> None:
        put_up(*arguments)
        _die(switches / PUBLISHING)

    loop.Reconciler.reconcile_once = reconcile_once  # type: ignore[method-assign]
    board.upsert = upsert


class _Port:
    """A port of the loop that does what the real one does."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Runtime(_Port):
    """Dies before it applies; else remembers that it did."""

    def __init__(self, real: Any, switch: Path) -> None:
        super().__init__(real)
        self._switch = switch
        self.applied = False

    def apply(self, app: Any) -> None:
        _die(self._switch)
        self._real.apply(app)
        self.applied = True


class _Ledger(_Port):
    """Dies before it records a pass that has applied something."""

    def __init__(self, real: Any, switch: Path, runtime: _Runtime) -> None:
        super().__init__(real)
        self._switch, self._runtime = switch, runtime

    def record(self, *arguments: Any) -> int:
        if self._runtime.applied:
            _die(self._switch)
        return int(self._real.record(*arguments))


def _die(switch: Path) -> None:
    if switch.exists():
        switch.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
