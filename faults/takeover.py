"""Two reconcilers on one ledger: the one that works falls silent, and the other takes over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.crashes import RECONCILER
from faults.report import Expectation
from faults.stage import Act, Stage

TAKEOVER_S = 15.0
STOP_S = 30.0


def leader_sleeps(stage: Stage) -> None:
    """Stop the working reconciler; another takes over and makes a change. The first wakes up and undoes nothing."""
    before = stage.replicas("a")
    sleeper = min(stage.processes(RECONCILER))
    with _another_like(stage, sleeper) as log:
        began = time.monotonic()
        os.kill(sleeper, signal.SIGSTOP)
        try:
            stage.wait(lambda: "leading with token" in log.read_text(), lambda: "nobody took over")
            took = time.monotonic() - began
            assert took <= TAKEOVER_S, f"the other took over after {took:.1f} s, not {TAKEOVER_S:.0f}"
            stage.create("k")
        finally:
            os.kill(sleeper, signal.SIGCONT)
        stage.wait(lambda: bool(stage.replicas("k")), lambda: "K has no replica")
        stage.until_passes()
        stage.delete("k")
        stage.until("k", lambda model: bool(model["state"] == "DELETED"))
    stage.until_passes()
    stage.until_running("a")
    assert before == stage.replicas("a"), "A was started again"


@contextmanager
def _another_like(stage: Stage, own: int) -> Iterator[Path]:
    """Have a second reconciler wait beside the platform's own, started as that one was. Gives its log."""
    argv = Path(f"/proc/{own}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    environ = dict(pair.split(b"=", 1) for pair in Path(f"/proc/{own}/environ").read_bytes().split(b"\0") if pair)
    log = stage.house.folder / "another-reconciler.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        stage.wait(
            lambda: "reconciling every" in log.read_text(), lambda: f"it does not wait: {log.read_text()[-400:]}"
        )
        assert "leading with token" not in log.read_text(), "two reconcilers work"
        yield log
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the second reconciler had not stopped after {STOP_S:.0f} s") from None


ACTS = (
    Act(
        "takeover",
        "of two reconcilers the working one sleeps (SIGSTOP), the other takes over (K is created and deleted)",
        leader_sleeps,
        Expectation(heal_s=120),
    ),
)
