"""Signs of life of the reconciler, kept by its threads as they go, and what probes make of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.shell.leadership import Leadership

STALE_S = 60.0
"""How old the last good pass of a ready reconciler may be beyond two intervals; the time limit of a call to Ray."""

_WATCH_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to a probe: whether all is well, and what there is to say. No secrets, no addresses."""

    ok: bool
    facts: Mapping[str, Any]


class Pulse:
    """Told by the loop and its watch what they do; asked by probes how it goes. Safe for threads."""

    def __init__(self, interval_s: float, pass_limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin before anything is connected. A pass is due every `interval_s` and hangs after `pass_limit_s`."""
        self._interval_s = interval_s
        self._pass_limit_s = pass_limit_s
        self._clock = clock
        self._lock = threading.Lock()
        self._starting: str | None = "starting"
        self._pass_since: float | None = None
        self._idle_since = self._beaten_at = clock()
        self._good_at: float | None = None
        self._trouble = ""

    def starting(self, why: str) -> None:
        """Say what the start waits for."""
        with self._lock:
            self._starting = why

    def connected(self) -> None:
        """Say that the start is over."""
        with self._lock:
            self._starting = None
            self._beaten_at = self._idle_since = self._clock()

    def beat(self) -> None:
        """Give the watch's sign of life."""
        with self._lock:
            self._beaten_at = self._clock()

    def pass_began(self) -> None:
        """Say that a pass, or a look of one that waits, begins."""
        with self._lock:
            self._pass_since = self._clock()

    def pass_ended(self, trouble: str = "") -> None:
        """Say that it ended: well, or with `trouble`."""
        with self._lock:
            self._pass_since, self._idle_since, self._trouble = None, self._clock(), trouble
            if not trouble:
                self._good_at = self._idle_since

    def is_hung(self) -> bool:
        """Say whether a pass runs for longer than any pass may."""
        with self._lock:
            return self._pass_since is not None and self._clock() - self._pass_since > self._pass_limit_s

    def alive(self) -> Health:
        """Say whether the loop goes round (`/healthz`). A start may take its time: imports alone take many seconds."""
        hung = self.is_hung()
        with self._lock:
            if self._starting is not None:
                return Health(ok=True, facts={"status": "starting", "reasons": []})
            now = self._clock()
            reasons = []
            if hung:
                reasons.append(f"a pass runs for more than {self._pass_limit_s:g} s")
            if self._pass_since is None and now - self._idle_since > self._due_s():
                reasons.append(f"no pass has begun for {now - self._idle_since:.0f} s")
            if now - self._beaten_at > _WATCH_LIMIT_S:
                reasons.append(f"the watch has been still for {now - self._beaten_at:.0f} s")
        return Health(not reasons, {"status": "failing" if reasons else "ok", "reasons": reasons})

    def ready(self, leadership: Leadership) -> Health:
        """Say whether it works, or could take over at once (`/readyz`)."""
        alive = self.alive()
        leads, token = leadership.is_leading(), leadership.token
        with self._lock:
            now = self._clock()
            reasons = list(alive.facts["reasons"])
            if self._starting is not None:
                reasons.append(self._starting)
            elif self._good_at is None or now - self._good_at > self._due_s():
                reasons.append(self._trouble or "no pass has ended well yet")
            if token is not None and not leads:
                reasons.append("the lease could not be renewed in time")
            status = "leader" if leads else "standby"
            if reasons:
                status = "starting" if self._starting is not None else "failing"
            facts = {
                "status": status,
                "role": "leader" if token is not None else "standby",
                "holder": leadership.holder,
                "token": token,
                "last_good_pass_s_ago": _ago(self._good_at, now),
                "pass_running_s": _ago(self._pass_since, now),
                "trouble": self._trouble or None,
                "reasons": reasons,
            }
        return Health(not reasons, facts)

    def _due_s(self) -> float:
        return 2 * self._interval_s + STALE_S


def _ago(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(now - moment, 1)
