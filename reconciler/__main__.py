"""The reconciler's process: an APScheduler job that runs passes, and a watch that asks for one at once.

Of several on one ledger the one that holds the lease runs passes; the others only look, and are ready to take over.

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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

from apscheduler.schedulers.background import BackgroundScheduler

from reconciler.chronicle import NoNotes
from reconciler.core.entities import Record, State
from reconciler.errors import (
    ArgusError,
    LedgerLost,
    Moved,
    NotLeader,
    RuntimeLost,
    RuntimeUnreachable,
    SettingsError,
    Unreachable,
)
from reconciler.front import config as front
from reconciler.front import listening
from reconciler.loop import Reconciler, Rules
from reconciler.names import LAST_SIGNAL, RECONCILER_SOCKET
from reconciler.settings import Settings
from reconciler.shell import outbox
from reconciler.shell.folders import DiskModelFolders
from reconciler.shell.leadership import Claim, Keeper, Leadership, claim
from reconciler.shell.ledger import EngineLog, LedgerReader, Outbox, SqlBoard, SqlLeases, SqlLedger
from reconciler.shell.ledger.engine import open_engine
from reconciler.shell.notes import GitNotes
from reconciler.shell.probes import ProbeServer
from reconciler.shell.publisher import Publisher, Publishing
from reconciler.shell.road import FrontRoad
from reconciler.shell.source import GitSource
from reconciler.shell.systemd import Watchdog
from reconciler.shell.vitals import Vitals
from reconciler.shell.watch import Watch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from reconciler.shell.log_collector import LogCollector
    from reconciler.shell.replicas import ReplicaWatch
    from reconciler.shell.serve import FrontKind, ServeRuntime

log = logging.getLogger("reconciler")

RESTART_ME = 75
"""Exit status (EX_TEMPFAIL) that asks a supervisor for a fresh process."""

WATCH_EVERY_S = 0.2
HURRY_S = 1.5
"""Time between passes while some model is on its way, in seconds."""

PASS_LIMIT_S = 300.0
"""A pass that takes longer hangs, unless the settings say otherwise."""

_ON_THE_WAY = {State.DEPLOYING, State.DELETING}


class Runner:
    """Runs passes one after the other: every so often, at once when asked, soon again while something is under way."""

    def __init__(
        self,
        reconciler: Reconciler,
        interval_s: float,
        leads: Callable[[], bool] = lambda: True,
        vitals: Vitals | None = None,
    ) -> None:
        """Prepare a scheduler; `start` begins. While `leads` says no, there are looks in the place of passes."""
        self._reconciler = reconciler
        self._interval_s = interval_s
        self._leads = leads
        self._pulse = vitals or Vitals(interval_s, PASS_LIMIT_S)
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
        self._reconciler.source.hurry()
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
        self._pulse.pass_began()
        trouble = ""
        self._due_from = time.monotonic()
        try:
            records = self._reconciler.reconcile_once().records if self._leads() else self._look()
        except NotLeader as error:
            log.warning("the pass was dropped: %s", error)
        except Moved:
            log.info("somebody else wrote the ledger; reading it again")
            self._asked.set()
        except Unreachable as error:
            trouble = str(error)
            self._report(error)
            if isinstance(error, RuntimeLost | LedgerLost):
                self.leave()
        except Exception as error:  # a pass never ends the loop: the next one may find the world in order
            log.exception("the pass failed")
            trouble = f"internal error: {type(error).__name__}"
            self._report(ArgusError(trouble))
        else:
            self._trouble = ""
            if any(record.state in _ON_THE_WAY for record in records.values()):
                self._again_in(min(HURRY_S, self._interval_s))
        finally:
            self._pulse.pass_ended(trouble)

    def _look(self) -> Mapping[str, Record]:
        self._reconciler.look()
        return {}

    def _report(self, error: ArgusError) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("no pass: %s", error)
        try:
            self._reconciler.report_trouble(error)
        except ArgusError as unreported:
            log.debug("the ledger could not be told: %s", unreported)


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. At LAST_SIGNAL the embedded Ray's application goes too. Gives the exit status."""
    _log_to_stderr()
    stop, last = threading.Event(), threading.Event()

    def told(number: int, _frame: object) -> None:
        if number == LAST_SIGNAL:
            last.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, LAST_SIGNAL):
        signal.signal(number, told)

    kind = front.kind(settings.serving)
    engine = open_engine(settings.ledger_url, settings.ledger.timeout_s)
    me = _claim(settings)
    leadership = _leadership(settings, me)
    vitals = Vitals(settings.reconcile.interval_s, settings.reconcile.pass_limit_s)
    probes = _probes(settings, me, vitals, leadership)
    ledger = SqlLedger(engine, leadership.fence, outbox.audience(settings))
    publisher = Publisher(_board(kind, engine, leadership), lambda: leadership.token)
    runtime, replicas = _runtime(settings, kind, publisher, leadership)
    watchdog = Watchdog()
    if not _connect(runtime, stop, vitals, watchdog):
        if stop.is_set():
            return 0
        _leave()
    publisher.know(runtime.secret)
    vitals.connected()
    road = FrontRoad(settings.openai_base_url)
    reconciler = Reconciler(
        source=GitSource.from_settings(settings, LedgerReader(engine).rulings),
        folders=DiskModelFolders(settings.private_root),
        runtime=runtime,
        front=publisher,
        ledger=ledger,
        rules=rules(settings),
        clock=lambda: datetime.now(UTC),
        confirm=leadership.confirm,
        road=road,
        notes=GitNotes.from_settings(settings) if settings.spec_repo.notes else NoNotes(),
    )
    runner = Runner(reconciler, settings.reconcile.interval_s, leadership.is_leading, vitals)
    watch = Watch(ledger, settings.spec_repo_url, settings.spec_repo.branch, settings.home)
    keeper = Keeper(leadership, settings.reconcile.takeover_s, runner.ask)
    keeper.start()
    runner.start()
    collector = _collector(engine, leadership)
    collector.start()
    courier = outbox.courier(settings, Outbox(engine, leadership.fence), leadership.is_leading)
    courier.start()
    log.info("reconciling every %g s as %s", settings.reconcile.interval_s, leadership.holder)
    _look_on(runner, watch, vitals, watchdog, stop)
    runner.stop()
    if runner.exit_status == RESTART_ME:
        # The lease is kept: a call to Ray that never came back may still take effect. The next process of this name
        # takes it back at once, others when it has run out.
        _leave()
    if last.is_set() and settings.ray.address is None and leadership.is_leading():
        _drain(runtime, settings.serving.stop_grace_s)
    collector.close()
    courier.close()
    keeper.stop()
    road.close()
    replicas.close()
    runtime.close()
    for probe in probes:
        probe.stop()
    log.info("stopped")
    return runner.exit_status


def _look_on(runner: Runner, watch: Watch, vitals: Vitals, watchdog: Watchdog, stop: threading.Event) -> None:
    """Ask for passes when something stirs, until asked to stop. A pass that hangs ends the process."""
    while not stop.is_set() and not runner.stopping.is_set():
        watch.wait(WATCH_EVERY_S)
        vitals.beat()
        if vitals.alive().ok:
            watchdog.tell()
        if vitals.is_hung():
            log.critical("a pass runs for longer than reconcile.pass_limit_s")
            _leave()
        try:
            runner.keep_pace()
            if watch.stirred():
                runner.ask()
        except LedgerLost as error:
            log.warning("%s", error)
            runner.leave()
        except Unreachable as error:
            log.debug("cannot watch: %s", error)


def _drain(runtime: ServeRuntime, limit_s: float) -> None:
    """Let Ray's front end what it has begun: Ray is about to be stopped with all that it runs."""
    log.info("taking the application away, when the answers that its front has begun are through")
    try:
        if not runtime.drain(limit_s):
            log.warning("answers are cut that still run after serving.stop_grace_s (%g s)", limit_s)
    except ArgusError as error:
        log.warning("the application was not taken away: %s", error)


def rules(settings: Settings) -> Rules:
    """Give the loop's rules from the configuration."""
    return Rules(
        limits=settings.limits,
        retry_delays_s=settings.reconcile.retry_delays_s,
        platform=settings.platform,
        update_strategy=settings.serving.update_strategy,
        brake=settings.brake,
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


def _claim(settings: Settings) -> Claim:
    try:
        (settings.home / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
        return claim(settings.home)
    except OSError as error:
        raise SettingsError(f"key 'home': {settings.home} cannot be written: {error.strerror}") from None


def _leadership(settings: Settings, me: Claim) -> Leadership:
    """Prepare for the lease, on connections of its own: what holds up a pass must not hold up a renewal."""
    patience_s = settings.reconcile.takeover_s
    engine = open_engine(settings.ledger_url, min(settings.ledger.timeout_s, patience_s / 4), migrate=False)
    return Leadership(SqlLeases(engine), me.name, patience_s)


def _probes(settings: Settings, me: Claim, vitals: Vitals, leadership: Leadership) -> list[ProbeServer]:
    """Answer probes on the socket in the state folder, and on a port where the settings name one."""
    answers = {"/healthz": vitals.alive, "/readyz": lambda: vitals.ready(leadership)}
    host, port = settings.reconcile.probe_host, settings.reconcile.probe_port
    servers = []
    try:
        if me.has_folder:
            servers.append(ProbeServer(listening.unix_socket(settings.home / "run", RECONCILER_SOCKET), answers))
        if port is not None:
            servers.append(ProbeServer(listening.tcp_socket(host, port), answers))
    except OSError as error:  # worth a word and no more: models come first
        log.warning("probes are not answered everywhere (reconcile.probe_port: %s): %s", port, error.strerror)
    return servers


def _board(kind: FrontKind, engine: Engine, leadership: Leadership) -> Publishing:
    if kind == "haproxy":
        return SqlBoard(engine, leadership.fence)
    from reconciler.shell.kv_board import KvBoard  # noqa: PLC0415

    return KvBoard(leadership.confirm)


def _runtime(
    settings: Settings, kind: FrontKind, publisher: Publisher, leadership: Leadership
) -> tuple[ServeRuntime, ReplicaWatch]:
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
        confirm=leadership.confirm,
    )
    return runtime, watch


def _collector(engine: Engine, leadership: Leadership) -> LogCollector:
    from reconciler.shell.log_collector import LogCollector  # noqa: PLC0415  Ray takes seconds, as in `_runtime`

    return LogCollector(EngineLog(engine), is_wanted=leadership.is_leading)


def _connect(runtime: ServeRuntime, stop: threading.Event, vitals: Vitals, watchdog: Watchdog) -> bool:
    """Wait for Ray. Gives False where the process is to end: asked to stop, or the client is in an unknown state."""
    began = time.monotonic()
    said = ""
    while not stop.is_set():
        watchdog.tell()
        try:
            runtime.connect()
        except RuntimeLost as error:
            log.warning("%s", error)
            return False
        except RuntimeUnreachable as error:
            if str(error) != said:
                said = str(error)
                log.info("waiting for Ray: %s", error)
            vitals.starting(f"waiting for Ray: {error}")
            stop.wait(1)
        else:
            log.info("connected to Ray after %.1f s", time.monotonic() - began)
            return True
    return False
