"""The reconciler's process: an APScheduler job that runs passes, and a watch that asks for one at once.

It exits by itself, with `RESTART_ME`, when the connection to Ray is lost: Ray's client cannot be trusted to come
back within a process, and a supervisor (`argus up`, systemd) starts a new one within seconds. So it does when the
ledger's file is lost: what was read of it counts no more.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from apscheduler.schedulers.background import BackgroundScheduler

from reconciler.core.entities import State
from reconciler.errors import ArgusError, LedgerLost, Moved, RuntimeLost, RuntimeUnreachable, Unreachable
from reconciler.front import config as front
from reconciler.loop import Reconciler, Rules
from reconciler.settings import Settings
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.ledger import SqlBoard, SqlLedger
from reconciler.shell.ledger.engine import open_engine
from reconciler.shell.publisher import Publisher, Publishing
from reconciler.shell.source import GitSource
from reconciler.shell.watch import Watch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from reconciler.shell.replicas import ReplicaWatch
    from reconciler.shell.serve import FrontKind, ServeRuntime

log = logging.getLogger("reconciler")

RESTART_ME = 75
"""Exit status (EX_TEMPFAIL) that asks a supervisor for a fresh process."""

WATCH_EVERY_S = 0.2
HURRY_S = 1.5
"""Time between passes while some model is on its way, in seconds."""

_ON_THE_WAY = {State.DEPLOYING, State.DELETING}


class Runner:
    """Runs passes one after the other: every so often, at once when asked, soon again while something is under way."""

    def __init__(self, reconciler: Reconciler, interval_s: float) -> None:
        """Prepare a scheduler; `start` begins."""
        self._reconciler = reconciler
        self._interval_s = interval_s
        self._asked = threading.Event()
        self.stopping = threading.Event()
        self.exit_status = 0
        self._trouble = ""
        self._due_from = time.monotonic()
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._job = self._scheduler.add_job(
            self._run,
            "interval",
            seconds=interval_s,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )

    def start(self) -> None:
        """Begin with a pass at once."""
        self._scheduler.start()

    def ask(self) -> None:
        """Ask for a pass at once; while one runs, for another right after it."""
        self._asked.set()
        self._again_in(0)

    def keep_pace(self) -> None:
        """Ask for a pass where none began for two intervals: to be called now and then.

        The scheduler goes by the wall clock. One that is put back an hour would have it wait for an hour.
        """
        if time.monotonic() - self._due_from > 2 * self._interval_s:
            self._due_from = time.monotonic()
            self.ask()

    def leave(self) -> None:
        """Ask for the end of this process, and for another."""
        self.exit_status = RESTART_ME
        self.stopping.set()

    def stop(self) -> None:
        """Let the pass that runs end, and begin no other."""
        self.stopping.set()
        self._scheduler.shutdown(wait=True)

    def _again_in(self, seconds: float) -> None:
        if not self.stopping.is_set():
            self._job.modify(next_run_time=datetime.now(UTC) + timedelta(seconds=seconds))

    def _run(self) -> None:
        self._pass()
        while self._asked.is_set() and not self.stopping.is_set():
            self._pass()

    def _pass(self) -> None:
        self._asked.clear()
        self._due_from = time.monotonic()
        try:
            records = self._reconciler.reconcile_once().records
        except Moved:
            log.info("somebody else wrote the ledger; reading it again")
            self._asked.set()
        except Unreachable as error:
            self._report(error)
            if isinstance(error, RuntimeLost | LedgerLost):
                self.leave()
        except Exception as error:  # a pass never ends the loop: the next one may find the world in order
            log.exception("the pass failed")
            self._report(ArgusError(f"internal error: {type(error).__name__}"))
        else:
            self._trouble = ""
            if any(record.state in _ON_THE_WAY for record in records.values()):
                self._again_in(min(HURRY_S, self._interval_s))

    def _report(self, error: ArgusError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("no pass: %s", error)
        try:
            self._reconciler.report_trouble(error)
        except ArgusError as unreported:
            log.debug("the ledger could not be told: %s", unreported)


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Gives the exit status."""
    _log_to_stderr()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())

    kind = front.kind(settings.serving)
    engine = open_engine(settings.ledger_url, settings.ledger.timeout_s)
    ledger = SqlLedger(engine)
    publisher = Publisher(_board(kind, engine))
    runtime, replicas = _runtime(settings, kind, publisher)
    if not _connect(runtime, stop):
        if stop.is_set():
            return 0
        _leave()
    publisher.know(runtime.secret)
    reconciler = Reconciler(
        source=GitSource.from_settings(settings),
        folders=DiskModelFolders(settings.private_root),
        runtime=runtime,
        front=publisher,
        ledger=ledger,
        rules=rules(settings),
        clock=lambda: datetime.now(UTC),
    )
    runner = Runner(reconciler, settings.reconcile.interval_s)
    watch = Watch(ledger, settings.spec_repo_url, settings.spec_repo.branch)
    runner.start()
    log.info("reconciling every %g s", settings.reconcile.interval_s)
    while not stop.wait(WATCH_EVERY_S) and not runner.stopping.is_set():
        try:
            runner.keep_pace()
            if watch.stirred():
                runner.ask()
        except LedgerLost as error:
            log.warning("%s", error)
            runner.leave()
        except Unreachable as error:
            log.debug("cannot watch: %s", error)
    runner.stop()
    if runner.exit_status == RESTART_ME:
        _leave()
    replicas.close()
    runtime.close()
    log.info("stopped")
    return runner.exit_status


def rules(settings: Settings) -> Rules:
    """Give the loop's rules from the configuration."""
    llm = settings.serving.llm.model_dump(mode="json", exclude={"start_attempts", "drain_timeout_s"})
    return Rules(
        limits=settings.limits,
        retry_delays_s=settings.reconcile.retry_delays_s,
        platform=json.dumps(llm, sort_keys=True),
    )


def ray_address(settings: Settings) -> str | None:
    """Say where Ray is: as configured, or where the embedded one wrote that it listens. None before it has."""
    if settings.ray.address:
        return settings.ray.address
    note = settings.home / "run" / "ray.json"
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError):
        return None


def _log_to_stderr() -> None:
    """Log our own lines only, through a handler of our own: Ray and vLLM rebuild the root logger to their taste."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns of each run that a longer pass makes needless


def _leave() -> NoReturn:
    """End this process at once. A call to Ray that hangs holds a thread that an orderly exit would wait for."""
    log.warning("leaving, to be started again")
    logging.shutdown()
    os._exit(RESTART_ME)


def _board(kind: FrontKind, engine: Engine) -> Publishing:
    if kind == "haproxy":
        return SqlBoard(engine)
    from reconciler.shell.kv_board import KvBoard  # noqa: PLC0415

    return KvBoard()


def _runtime(settings: Settings, kind: FrontKind, publisher: Publisher) -> tuple[ServeRuntime, ReplicaWatch]:
    """Import what takes seconds only here: a wrong setting is told before."""
    # Read by Ray at import. Its handler prints a C++ stack at each SIGTERM, and ours is the one that counts; its setup
    # hook has every new worker process import vLLM, also those that never run an engine.
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"
    os.environ["RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK"] = "0"
    from reconciler.shell import llm  # noqa: PLC0415
    from reconciler.shell.replicas import ReplicaWatch  # noqa: PLC0415
    from reconciler.shell.serve import ServeRuntime  # noqa: PLC0415

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it shows all its options at each apply
    watch = ReplicaWatch(publisher.take_requests)
    runtime = ServeRuntime(
        settings.serving,
        lambda: ray_address(settings),
        llm.deployer(settings.serving.llm, settings.private_root),
        by_value=llm.BY_VALUE,
        front=kind,
        follow=watch.follow,
    )
    return runtime, watch


def _connect(runtime: ServeRuntime, stop: threading.Event) -> bool:
    """Wait for Ray. Gives False where the process is to end: asked to stop, or the client is in an unknown state."""
    began = time.monotonic()
    said = ""
    while not stop.is_set():
        try:
            runtime.connect()
        except RuntimeLost as error:
            log.warning("%s", error)
            return False
        except RuntimeUnreachable as error:
            if str(error) != said:
                said = str(error)
                log.info("waiting for Ray: %s", error)
            stop.wait(1)
        else:
            log.info("connected to Ray after %.1f s", time.monotonic() - began)
            return True
    return False
