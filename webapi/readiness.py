"""Whether this process can do its work: what it needs is asked in the background, and asked rarely.

However many probes come, each thing is asked once at a time, an answer counts for a second, and nobody waits longer
than that for one: a database that hangs must not take the threads that say so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from flask import Flask, current_app

from reconciler.errors import ArgusError
from webapi.parts import Parts

log = logging.getLogger(__name__)

LIMIT_S = 1.0
"""How long a probe waits for an answer."""

KEEP_S = 1.0
"""How long an answer counts."""

GRACE_S = 15.0
"""How long after a good answer the next may take: fetching a remote repository is a matter of seconds."""

_NAME = "argus.readiness"


class Check:
    """One thing that is needed. `ask` raises ArgusError where it is not to be had. Safe for threads."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Ask nothing yet. `name` is what people call the thing: "the ledger"."""
        self._name = name
        self._ask = ask
        self._clock = clock
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asked_at: float | None = None  # None: nobody is being asked
        self._done_at: float | None = None
        self._good_at: float | None = None
        self._trouble: str | None = None

    def trouble(self) -> str | None:
        """Say why it is not to be had, None where it is. Takes a second at most."""
        with self._lock:
            now = self._clock()
            if self._asked_at is None and self._done_at is not None and now - self._done_at < KEEP_S:
                return self._trouble
            if self._asked_at is None:
                self._asked_at = now
                self._answered = threading.Event()
                # A daemon: one that never comes back must not keep the process from ending.
                threading.Thread(target=self._run, name=f"ready: {self._name}", daemon=True).start()
            answered, left_s = self._answered, self._asked_at + self._limit_s - now
        answered.wait(max(0.0, left_s))
        with self._lock:
            if answered.is_set():
                return self._trouble
            if self._good_at is not None and self._clock() - self._good_at < GRACE_S:
                return None
        return f"{self._name} does not answer within {self._limit_s:g} s"

    def _run(self) -> None:
        trouble: str | None = None
        try:
            self._ask()
        except ArgusError as error:
            trouble = f"{self._name} does not answer"
            if trouble != self._trouble:
                log.warning("not ready: %s", error)  # not to the outside: it may name machines
        except Exception:
            trouble = f"{self._name} cannot be asked"
            log.exception("not ready: %s", trouble)
        with self._lock:
            self._trouble, self._asked_at, self._done_at = trouble, None, self._clock()
            if trouble is None:
                self._good_at = self._done_at
            self._answered.set()


def install(app: Flask, platform: Parts) -> None:
    """Prepare the checks of `app`."""
    app.extensions[_NAME] = {
        "ledger": Check("the ledger", platform.reader.ping),
        "spec_repository": Check("the spec repository", platform.store.reach),
    }


def troubles() -> Mapping[str, str | None]:
    """Give for each thing that the current app needs why it is not to be had, None where it is."""
    checks: Mapping[str, Check] = current_app.extensions[_NAME]
    return {name: check.trouble() for name, check in checks.items()}
