"""Who a process is, and which processes belong to a platform. Linux only: it reads /proc.

A pid alone names nobody for long: the kernel gives it to somebody else. A process is its pid and the time at which it
started (clock ticks since boot, from /proc/<pid>/stat), and is signalled through a pidfd after both were compared.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

MARK = "ARGUS_INSTANCE"
"""Environment variable that every process of a platform inherits: the platform's id (`home.instance`)."""

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Process:
    """A process for good: its pid and its start time in clock ticks since boot."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Stat:
    """A process as /proc has it at a moment."""

    process: Process
    parent: int
    session: int
    zombie: bool
    name: str = ""


def stat(pid: int) -> Stat | None:
    """Read /proc/<pid>/stat; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses; the rest is plain:
    # state ppid pgrp session … and the start time as field 22, that is 19 after the state.
    named, _, plain = text.rpartition(")")
    fields, name = plain.split(), named.partition("(")[2]
    return Stat(Process(pid, int(fields[19])), int(fields[1]), int(fields[3]), fields[0] in "ZX", name)


def find(pid: int) -> Process | None:
    """Give the process that has `pid` now; None where there is none, or only its corpse."""
    seen = stat(pid)
    return seen.process if seen and not seen.zombie else None


def is_alive(process: Process) -> bool:
    """Say whether this very process runs (another one with its pid does not count, nor does its corpse)."""
    return find(process.pid) == process


def send(process: Process, number: signal.Signals) -> bool:
    """Signal this very process, never one that has inherited its pid. False where it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor holds on to whoever had the pid when it was opened: if the start time still fits, that is
        # the one that was meant, whatever happens to the pid from here on.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def everybody() -> dict[int, Stat]:
    """Give all processes of this user, by pid."""
    mine = os.getuid()
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == mine and (seen := stat(int(name))):
                found[int(name)] = seen
    return found


def is_marked(pid: int, instance: str) -> bool:
    """Say whether the process was started with this platform's mark in its environment.

    Ray's workers overwrite theirs when they set their titles, hence the other signs in `belonging`.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={instance}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def descendants(root: int, among: dict[int, Stat]) -> set[int]:
    """Give the pids of `root`'s children, their children and so on."""
    children: dict[int, list[int]] = {}
    for pid, seen in among.items():
        children.setdefault(seen.parent, []).append(pid)
    found: set[int] = set()
    todo = list(children.get(root, ()))
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo.extend(children.get(pid, ()))
    return found


def belonging(leaders: Iterable[Process], instance: str, among: dict[int, Stat]) -> set[Process]:
    """Give the live processes of a platform, told by three signs, because each fails somewhere.

    Descent from a leader (lost when a parent dies), a leader's session (left by daemons), the mark in the
    environment (overwritten by Ray's workers). A session's number is not given away while it has members, so a member
    of a dead leader's session that started after the leader belongs to it, unless the number has a new leader.
    """
    pids = {pid for pid in among if is_marked(pid, instance)}
    for leader in leaders:
        now = among.get(leader.pid)
        if now is None or now.process == leader:
            pids |= {
                pid
                for pid, seen in among.items()
                if seen.session == leader.pid and seen.process.started >= leader.started
            }
    for pid in list(pids):
        pids |= descendants(pid, among)
    pids.discard(os.getpid())
    return {among[pid].process for pid in pids if not among[pid].zombie}


def end(who: Callable[[], set[Process]], *, grace_s: float) -> None:
    """End every process that `who` finds: SIGTERM, up to `grace_s` seconds of waiting, then SIGKILL until none is left.

    `who` is asked again each time, because the dying may leave new orphans behind.
    """
    told: set[Process] = set()
    give_up = time.monotonic() + grace_s + 10
    kill_from = time.monotonic() + grace_s
    while (left := who()) and time.monotonic() < give_up:
        for process in left:
            if time.monotonic() >= kill_from:
                send(process, signal.SIGKILL)
            elif process not in told:
                send(process, signal.SIGTERM)
        told |= left
        reap(left)
        time.sleep(0.05)


def reap(processes: Iterable[Process]) -> None:
    """Take the corpses of those that are children of this process, so that they do not stay as zombies."""
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def become_subreaper() -> None:
    """Make orphans among this process's descendants its own children, so that none of them can slip away.

    Raises OSError where the kernel refuses (older than 3.4).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
