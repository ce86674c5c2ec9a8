"""Whether a child still answers: asked now and then on a thread of its own, so that the supervisor never waits.

A process that is alive and does nothing (stopped by a signal, all its threads in a deadlock) is seen by nobody but
whoever asks it something. The API is not asked: gunicorn replaces workers of its own that hang, and an API whose
threads all wait for a slow repository is busy, not ill.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

EVERY_S = 5.0
TIMEOUT_S = 10.0
FAILURES = 3
"""So many in a row, and a child counts as hung: 30 s or more without an answer, which no busy machine explains."""

_LARGEST_ANSWER = 64 * 1024

Probe = Callable[[], bool]
"""Says whether a child answered well; takes no longer than `TIMEOUT_S`."""


class Health:
    """One child's health in one life. It counts only from its first good answer on: a start may take its time."""

    def __init__(self, probe: Probe, now: float) -> None:
        """Begin with a child that has just started."""
        self._probe = probe
        self._next_at = now + EVERY_S
        self._answer: bool | None = None
        self._thread: threading.Thread | None = None
        self._has_answered = False
        self._failures = 0

    def is_hung(self, now: float) -> bool:
        """Ask when it is time, take in the last answer, and say whether the child hangs. Never waits."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            self._has_answered = self._has_answered or self._answer is True
            self._failures = 0 if self._answer else self._failures + 1
        if self._thread is None and now >= self._next_at:
            self._next_at = now + EVERY_S
            self._thread = threading.Thread(target=self._ask, name="probe", daemon=True)
            self._thread.start()
        return self._has_answered and self._failures >= FAILURES

    def _ask(self) -> None:
        self._answer = False
        with suppress(Exception):  # whatever it is: there was no good answer
            self._answer = self._probe()


def socket_probe(socket_file: Path, path: str, timeout_s: float = TIMEOUT_S) -> Probe:
    """Give a probe that asks on a unix socket. Only the status `ok` is a good answer: what is starting says so."""

    def ask() -> bool:
        connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
        # A unix socket's path has 107 bytes, a state folder's may have more.
        folder = os.open(socket_file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(f"/proc/self/fd/{folder}/{socket_file.name}")
        except OSError:
            connection.close()
            raise
        finally:
            os.close(folder)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status == http.HTTPStatus.OK and json.loads(answer.read(_LARGEST_ANSWER))["status"] == "ok"
        finally:
            connection.close()

    return ask
