"""A process of the suite's own that does something all the time and tells of it, a line of JSON each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any


class Teller:
    """`python -m <module> <arguments>`, in a session of its own, so that it has its own share of the CPU.

    It ends when its standard input does. `take` is given what each line holds, on a thread.
    """

    def __init__(self, module: str, *arguments: object, take: Callable[[dict[str, Any]], None]) -> None:
        self._take = take
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def close(self, limit_s: float) -> None:
        """Let it end what it has begun, and hear it out; kill it after so many seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(10)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._take(json.loads(line))
