"""When a version that failed is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from reconciler.core.entities import Failure


def next_failure(
    before: Failure | None, version: str, message: str, now: datetime, delays_s: Sequence[float]
) -> Failure:
    """Count one more failed attempt of `version`.

    The n-th failure in a row waits `delays_s[n-1]` seconds, and the last delay repeats: with (15, 60, 300) the
    attempts start 15, 75, 375, 675, ... seconds after the first failure. Another version starts afresh.
    """
    attempts = before.attempts + 1 if before is not None and before.version == version else 1
    delay = delays_s[min(attempts, len(delays_s)) - 1]
    recreated_for = before.recreated_for if before is not None and before.version == version else None
    return Failure(version, attempts, now + timedelta(seconds=delay), message, recreated_for)


def waits(failure: Failure | None, version: str, now: datetime) -> bool:
    """Say whether `version` has failed and its time has not come again."""
    return failure is not None and failure.version == version and now < failure.retry_at
