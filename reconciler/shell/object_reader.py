"""A git process that stays, for questions that are asked all the time: which object is that, and what does it hold.

Starting a process is most of what such a question costs, above all where the cores are busy. This is `git cat-file
--batch-command`, which looks at the refs and at new objects each time it is asked.

Whatever is not as usual (content that is missing, a complaint, a process that has died, a git before 2.36) is answered
with None: the caller asks git the long way, which knows why. Only lateness is an error.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from reconciler.errors import SourceUnreachable
from reconciler.shell.patience import Patience, take

Answer = TypeVar("Answer")

MOST_USES = 10_000
"""After so many questions another process takes its place, so that nothing can pile up in one."""

LONGEST_QUESTION = 16 * 1024
"""In bytes: it must fit into a pipe, which nobody reads from while it is written."""

REST_S = 5.0
"""How long it is left alone after it has failed, in seconds."""

_CHUNK = 256 * 1024


class Process(Protocol):
    """What is needed of a process with pipes (`subprocess.Popen`, GitPython's wrapper of one)."""

    @property
    def stdin(self) -> Pipe: ...  # noqa: D102
    @property
    def stdout(self) -> Pipe: ...  # noqa: D102
    @property
    def stderr(self) -> Pipe: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def communicate(self) -> object: ...  # noqa: D102


class Pipe(Protocol):
    """One end of a pipe."""

    def fileno(self) -> int: ...  # noqa: D102


class _UnusualError(Exception):
    """An answer that this side does not deal with."""


class ObjectReader:
    """Asks one process for objects; safe for threads, which take turns."""

    def __init__(
        self, start: Callable[[], Process], patience: Patience, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`start` starts the process. `patience` limits each question."""
        self._start = start
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._uses = 0
        self._rests_until = 0.0
        self._buffer = bytearray()
        self._deadline = 0.0

    def describe(self, names: Sequence[str]) -> list[str] | None:
        """Give `<id> <kind> <size>` for each name, or `<name> missing`, in their order. Raises SourceUnreachable."""
        return self._ask("info", names, self._description)

    def contents(self, names: Sequence[str]) -> list[bytes] | None:
        """Give each object whole, in their order; None also where one is not there. Raises SourceUnreachable."""
        return self._ask("contents", names, self._content)

    def close(self) -> None:
        """End the process. The next question starts another."""
        with self._lock:
            self._drop()

    def _ask(self, verb: str, names: Sequence[str], read: Callable[[], Answer]) -> list[Answer] | None:
        question = "".join(f"{verb} {name}\n" for name in names).encode(errors="surrogateescape")
        patience = self._patience
        if len(question) > LONGEST_QUESTION or not take(self._lock, patience.limit_s, patience.refuse_if_tried):
            return None
        try:
            if self._clock() < self._rests_until:
                return None
            process = self._running()
            with self._patience.asking("cat-file"):
                self._deadline = self._clock() + self._patience.limit_s
                os.write(process.stdin.fileno(), question)
                answers = [read() for _ in names]
                self._require_silence(process)
        except SourceUnreachable:
            self._drop()
            raise
        except (_UnusualError, OSError, ValueError):
            self._drop()
            self._rests_until = self._clock() + REST_S
            return None
        else:
            return answers
        finally:
            self._lock.release()

    def _require_silence(self, process: Process) -> None:
        if self._buffer or select.select([process.stderr.fileno()], [], [], 0)[0]:
            raise _UnusualError

    def _running(self) -> Process:
        if self._uses >= MOST_USES:
            self._drop()
        if self._process is None:
            self._process, self._uses = self._start(), 0
        self._uses += 1
        return self._process

    def _drop(self) -> None:
        process, self._process = self._process, None
        self._buffer.clear()
        if process is not None:
            process.kill()
            process.communicate()  # its pipes are closed, and nobody has to bury it later

    def _description(self) -> str:
        line = self._line().decode(errors="replace")
        if not line.endswith(" missing") and not line.rpartition(" ")[2].isdecimal():
            raise _UnusualError
        return line

    def _content(self) -> bytes:
        words = self._line().rsplit(b" ", 2)
        if len(words) != 3 or not words[2].isdigit():
            raise _UnusualError
        size = int(words[2])
        while len(self._buffer) <= size:
            self._more()
        content = bytes(self._buffer[:size])
        del self._buffer[: size + 1]  # the line feed behind it, too
        return content

    def _line(self) -> bytes:
        looked_at = 0
        while (end := self._buffer.find(b"\n", looked_at)) < 0:
            looked_at = len(self._buffer)
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _more(self) -> None:
        assert self._process is not None, "it was started for this question"  # noqa: S101  by `_ask`
        out = self._process.stdout.fileno()
        left_s = self._deadline - self._clock()
        if left_s <= 0 or not select.select([out], [], [], left_s)[0]:
            raise TimeoutError
        read = os.read(out, _CHUNK)
        if not read:
            raise _UnusualError
        self._buffer += read
