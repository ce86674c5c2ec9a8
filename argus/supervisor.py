"""Children: started, watched, started again with backoff when they die or hang, adopted, stopped.

One thread drives it: somebody calls `tick` a few times a second. Each child leads a session of its own, so that a
Ctrl-C at the terminal reaches only the supervisor, and so that what a child leaves behind can be told from the rest.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from argus import backoff, home, processes
from argus.health import Health, Probe
from argus.processes import Process

LARGEST_LOG = 50 * 1024 * 1024
"""A log of this many bytes is set aside as <name>.log.1 and begun anew."""

_LOGS_EVERY_S = 30.0
_CORPSES_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a child. `facts` go into its note in run/."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    niceness: int = 0
    group_niceness: int = 0
    """The same for all of its session against other sessions, where Linux shares the CPU out by sessions (autogroups):
    there a process's own niceness counts only within its session."""


@dataclass(frozen=True, slots=True)
class Service:
    """A child for as long as the platform runs. `command` is asked anew at each start, after leftovers are gone.

    `stop` is the signal by which it ends in an orderly way; it has `grace_s` seconds for that. One that has a `probe`
    and stops answering it is killed and started again.
    """

    name: str
    command: Callable[[], Command]
    grace_s: float = 15.0
    restart: bool = True
    stop: signal.Signals = signal.SIGTERM
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """A child ended. `status` is its exit status, negative for a signal, None where it was adopted.

    `hung` says that it was killed because it answered no more.
    """

    name: str
    process: Process
    status: int | None
    alive_s: float
    hung: bool = False

    def __str__(self) -> str:
        how = "exit status unknown"
        if self.status is not None:
            how = signal.Signals(-self.status).name if self.status < 0 else f"exit status {self.status}"
        what = "answered no more and was ended" if self.hung else "ended"
        return f"{self.name} {what} after {self.alive_s:.0f} s ({how}) and is started again"


@dataclass(slots=True)
class _Child:
    service: Service
    lives: backoff.Lives = field(default_factory=backoff.Lives)
    process: Process | None = None
    popen: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    health: Health | None = None
    hung: bool = False


class Supervisor:
    """The children of one platform, whose state folder is `folder`.

    `owns_orphans` says that this process is a subreaper and starts nothing but this platform: then all of its
    descendants are the platform's, also those that no other sign tells (`end_everything`).
    """

    def __init__(
        self, folder: Path, *, owns_orphans: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = folder
        self._owns_orphans = owns_orphans
        self._instance = home.instance(folder)
        self._clock = clock
        self._children: dict[str, _Child] = {}
        self._leaders: set[Process] = set()
        self._logs_at = clock() + _LOGS_EVERY_S
        self._corpses_at = clock()
        self._corpses: set[Process] = set()

    def log_path(self, name: str) -> Path:
        """Say where a child's output goes."""
        return self._home / "logs" / f"{name}.log"

    def start(self, service: Service) -> Process:
        """Start a child and keep it. Raises OSError where its program cannot be run."""
        child = self._children.setdefault(service.name, _Child(service))
        return self._start(child)

    def adopt(self, service: Service, process: Process) -> None:
        """Keep a process that a killed supervisor started. Its exit status will not be known."""
        self._leaders.add(process)
        self._children[service.name] = _Child(service, process=process, since=self._clock())

    def remember(self, process: Process) -> None:
        """Count as the platform's own what `process` left behind, whether it still runs or not (`end_everything`)."""
        self._leaders.add(process)

    def process(self, name: str) -> Process | None:
        """Give the child's process; None while it is down."""
        child = self._children.get(name)
        return child.process if child else None

    def has_any(self) -> bool:
        """Say whether there is any child, up or down."""
        return bool(self._children)

    def tick(self) -> list[Death]:
        """See who died, start who is due. Gives the deaths since the last call."""
        now = self._clock()
        deaths = [death for child in self._children.values() if (death := self._look(child, now))]
        for child in self._children.values():
            if backoff.due(child.lives, now):
                try:
                    self._start(child)
                except OSError:
                    child.lives = backoff.died(child.lives, alive_s=0.0, now=now)
        self._housekeeping(now)
        return deaths

    def kill(self, name: str) -> None:
        """End a child with SIGKILL; a later tick finds it dead and starts it again."""
        if process := self.process(name):
            processes.send(process, signal.SIGKILL)

    def end(self, name: str, hurry: Callable[[], bool] = lambda: False) -> None:
        """End a child: its signal, its grace, SIGKILL; then whatever it left behind. `hurry` cuts the grace short."""
        child = self._children.get(name)
        if child is None:
            return
        child.lives = backoff.Lives(child.lives.deaths, None)
        process = child.process
        if process is None:
            return
        processes.send(process, child.service.stop)
        until = time.monotonic() + child.service.grace_s
        while self._runs(child) and time.monotonic() < until and not hurry():
            time.sleep(0.05)
        if self._runs(child):
            processes.send(process, signal.SIGKILL)
            until = time.monotonic() + 10
            while self._runs(child) and time.monotonic() < until:
                time.sleep(0.05)
        child.process = child.popen = None
        self._clear_away(process)
        home.forget(self._home, name)

    def drop(self, name: str) -> None:
        """Forget a child without touching it: it lives on, and its note in run/ stays."""
        child = self._children.pop(name, None)
        if child and child.process:
            self._leaders.discard(child.process)

    def end_everything(self, hurry: Callable[[], bool] = lambda: False, spare: Iterable[Process] = ()) -> None:
        """End every process of the platform that is left, whatever its parent; but for `spare` and their kin."""
        spared = frozenset(spare)

        def left() -> set[Process]:
            among = processes.everybody()
            found = processes.belonging(self._leaders, self._instance, among)
            if self._owns_orphans:
                below = processes.descendants(os.getpid(), among)
                found |= {among[pid].process for pid in below if not among[pid].zombie}
            return found - spared - processes.belonging(spared, "-", among)

        processes.end(left, grace_s=0.0 if hurry() else 3.0)
        if self._owns_orphans:
            among = processes.everybody()
            processes.reap(among[pid].process for pid in processes.descendants(os.getpid(), among))

    def _start(self, child: _Child) -> Process:
        service = child.service
        command = service.command()
        log = self.log_path(service.name)
        environ = {**command.environ, processes.MARK: self._instance}
        with log.open("ab") as out:
            popen = subprocess.Popen(
                command.argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if command.niceness:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, popen.pid, command.niceness)
        if command.group_niceness:
            with suppress(OSError):  # a kernel without autogroups
                Path(f"/proc/{popen.pid}/autogroup").write_text(f"{command.group_niceness}\n", encoding="ascii")
        seen = processes.stat(popen.pid)  # a corpse too has a start time, until it is waited for
        process = seen.process if seen else Process(popen.pid, 0)
        child.popen, child.process, child.since = popen, process, self._clock()
        child.lives = backoff.started(child.lives)
        child.health, child.hung = Health(service.probe, child.since) if service.probe else None, False
        self._leaders.add(process)
        # Without a note (a full disk) a later `argus up` knows it by other signs, and it runs all the same.
        with suppress(OSError):
            home.note(self._home, service.name, process, **command.facts)
        return process

    def _look(self, child: _Child, now: float) -> Death | None:
        if child.process is None:
            return None
        if self._runs(child):
            if child.health and not child.hung and child.health.is_hung(now):
                child.hung = True
                processes.send(child.process, signal.SIGKILL)
            return None
        status = child.popen.returncode if child.popen else None
        death = Death(child.service.name, child.process, status, now - child.since, child.hung)
        child.process = child.popen = None
        self._clear_away(death.process)
        if child.service.restart:
            child.lives = backoff.died(child.lives, alive_s=death.alive_s, now=now)
        home.forget(self._home, child.service.name)
        return death

    def _runs(self, child: _Child) -> bool:
        if child.popen:
            return child.popen.poll() is None
        return child.process is not None and processes.is_alive(child.process)

    def _clear_away(self, leader: Process) -> None:
        """End what a dead child left in its session, so that its port and files are free for the next."""

        def left() -> set[Process]:
            return processes.belonging([leader], "-", processes.everybody())

        processes.end(left, grace_s=2.0)
        self._leaders.discard(leader)

    def _housekeeping(self, now: float) -> None:
        if now >= self._logs_at:
            self._logs_at = now + _LOGS_EVERY_S
            for name in self._children:
                rotate(self.log_path(name))
        if now >= self._corpses_at:
            self._corpses_at = now + _CORPSES_EVERY_S
            self._bury()

    def _bury(self) -> None:
        """Wait for orphans that came to this process as their subreaper.

        Only those that were corpses five seconds ago too: a younger one may be waited for by its own starter.
        """
        own = {child.popen.pid for child in self._children.values() if child.popen}
        corpses = {
            seen.process
            for seen in processes.everybody().values()
            if seen.zombie and seen.parent == os.getpid() and seen.process.pid not in own
        }
        processes.reap(corpses & self._corpses)
        self._corpses = corpses


def rotate(log: Path, largest: int = LARGEST_LOG) -> None:
    """Set a log of `largest` bytes or more aside; its writer goes on in the same, now empty file (O_APPEND)."""
    with suppress(OSError):
        if log.stat().st_size >= largest:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def tail(log: Path, lines: int = 15, largest: int = 64 * 1024) -> str:
    """Give the last lines of a log, indented; nothing where it is empty or missing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - largest))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
