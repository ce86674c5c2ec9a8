"""What happens to the state on the disk, to git and to the clock, under load."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults.crashes import API_MASTER, API_WORKER, RECONCILER, kill_supervisor
from faults.report import Expectation
from faults.stage import Act, Skipped, Stage
from tests.e2e.platform import ROUTER

LOCKED_S = 20.0
BROKEN_S = 20.0
HOUR_S = 3600

WITH_THE_LEDGER = frozenset({"tokens", "past events"})
"""What nothing but the ledger knows."""

_LOCK = """
import sqlite3, sys, time
ledger = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
ledger.execute("BEGIN EXCLUSIVE")
time.sleep(float(sys.argv[2]))
ledger.execute("ROLLBACK")
"""


def ledger_locked(stage: Stage) -> None:
    """Hold the ledger's write lock for longer than anybody waits for it."""
    subprocess.run([sys.executable, "-c", _LOCK, str(_ledger(stage)), str(LOCKED_S)], check=True, timeout=60)
    _until_well(stage)


def disk_full(stage: Stage) -> None:
    """Leave no byte on the disk that the whole state folder is on."""
    if stage.house.no_disk:
        raise Skipped(stage.house.no_disk)
    filler = stage.house.home / "filler"
    try:
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(b"\0" * 65536)
        time.sleep(BROKEN_S)
        assert stage.says("a"), "A says nothing"
    finally:
        filler.unlink()
    _until_well(stage)


def ledger_deleted(stage: Stage) -> None:
    """Delete the ledger's files under everybody who has them open."""
    before = stage.replicas("a")
    for file in _files(stage):
        file.unlink()
    _until_rebuilt(stage, before)


def ledger_deleted_stopped(stage: Stage) -> None:
    """Kill `argus up` and all that is not Ray or HAProxy, delete the ledger, and start again."""
    before = stage.replicas("a")
    kill_supervisor(stage)
    for pattern in (API_MASTER, API_WORKER, RECONCILER, ROUTER):
        for pid in stage.processes(pattern):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
    for file in _files(stage):
        file.unlink()
    stage.platform.start("--no-demo")
    _until_rebuilt(stage, before)


def ledger_corrupted(stage: Stage) -> None:
    """Overwrite everything in the ledger but its first page."""
    before, ledger = stage.replicas("a"), _ledger(stage)
    with sqlite3.connect(ledger, timeout=10) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = ledger.stat().st_size
    with ledger.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    stage.wait(lambda: bool(_set_aside(stage)), lambda: "the broken ledger was not set aside")
    _until_rebuilt(stage, before)


def git_broken(switch: str) -> Callable[[Stage], None]:
    """Have every git command hang, or fail, for a while."""

    def run(stage: Stage) -> None:
        stage.house.turn_on(switch)
        for pid in stage.processes("cat-file --batch-command"):  # one that stays would go on answering
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(BROKEN_S)
        assert stage.says("a"), "A says nothing"
        assert stage.reconciler().get("error"), "the platform's status says nothing of it"
        stage.house.all_off()
        _until_well(stage)

    return run


def git_corrupted(stage: Stage) -> None:
    """Overwrite the newest commit's tree in the spec repository, and put it back, as from any clone, after a while."""
    repository = stage.house.home / "specs.git"
    for _ in range(50):  # the crowd writes too: the tree has to be the newest still when it is broken
        head = stage.platform.git("rev-parse", "main")
        tree = stage.platform.git("rev-parse", f"{head.strip()}^{{tree}}").strip()
        file = repository / "objects" / tree[:2] / tree[2:]
        whole = file.read_bytes()
        _overwrite(file, os.urandom(len(whole)))
        if stage.platform.git("rev-parse", "main") == head:
            break
        _overwrite(file, whole)
    try:
        time.sleep(BROKEN_S)
        assert stage.says("a"), "A says nothing"
    finally:
        _overwrite(file, whole)
    _until_well(stage)


def clock_jumps(stage: Stage) -> None:
    """Put the clock of the API and of the reconciler an hour forward, then an hour back, then right."""
    if stage.house.no_clock:
        raise Skipped(stage.house.no_clock)
    for moved_by in (HOUR_S, -HOUR_S, 0):
        stage.house.move_clock(moved_by)
        time.sleep(2)
        stage.until_passes()
        stage.until_written()


def _overwrite(file: Path, content: bytes) -> None:
    """Write into a file that git has made read-only, in place."""
    file.chmod(0o600)
    file.write_bytes(content)


def _until_well(stage: Stage) -> None:
    """Wait until the API takes writes and the reconciler makes passes."""
    stage.until_written()
    stage.until_passes()
    stage.until_running("a")


def _until_rebuilt(stage: Stage, before: set[int]) -> None:
    """Wait until a new ledger says what runs, which never stopped."""
    stage.until_running("a")
    stage.until_passes()
    stage.until_written()
    assert before == stage.replicas("a"), "A was started again"


def _ledger(stage: Stage) -> Path:
    return stage.house.home / "ledger.sqlite"


def _files(stage: Stage) -> list[Path]:
    ledger = _ledger(stage)
    return [
        file for file in ledger.parent.glob(f"{ledger.name}*") if file.name[len(ledger.name) :] in {"", "-wal", "-shm"}
    ]


def _set_aside(stage: Stage) -> list[Path]:
    return list(stage.house.home.glob("ledger.sqlite.broken-*"))


LOST = Expectation(heal_s=90, writes_fail=True, loses=WITH_THE_LEDGER)
BEHIND = Expectation(heal_s=90, writes_fail=True)

ACTS = (
    Act("ledger-locked", f"the ledger is locked for {LOCKED_S:.0f} s", ledger_locked, BEHIND),
    Act("disk-full", f"the state folder's disk is full for {BROKEN_S:.0f} s", disk_full, BEHIND),
    Act("git-hangs", f"git hangs for {BROKEN_S:.0f} s", git_broken("git-hangs"), BEHIND),
    Act("git-gone", f"git cannot be run for {BROKEN_S:.0f} s", git_broken("git-gone"), BEHIND),
    Act("git-corrupted", f"an object of the spec repository is corrupted for {BROKEN_S:.0f} s", git_corrupted, BEHIND),
    Act("clock", "the clock jumps an hour forth, and two back, and one forth", clock_jumps, Expectation(heal_s=120)),
    Act("ledger-deleted", "the ledger is deleted while everything runs", ledger_deleted, LOST),
    Act("ledger-corrupted", "the ledger is overwritten but for its first page", ledger_corrupted, LOST),
)

STOPPED = (
    Act(
        "ledger-deleted-stopped",
        "`argus up` and its processes are killed, the ledger is deleted, `argus up`",
        ledger_deleted_stopped,
        LOST,
    ),
)
