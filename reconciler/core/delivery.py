"""What follows from an attempt to deliver an announcement: done, again later, or given up.

Backoff is exponential with jitter, from 5 s to an hour, and never sooner than the other side asks for. What can be put
right on either side (a token that has run out, a server that is down, a repository that is not there yet) is tried for
as long as `Patience` has it; what is refused for what it says is tried a few times and then given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 3600.0
LONGEST_ASKED_S = 6 * 3600.0
"""A destination that asks to be left alone for longer is asked again after this."""

UNSAID_LIMIT_S = 60.0
"""A pause for a rate limit whose end nobody tells: GitHub asks for a minute at least."""

FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0
"""How long a destination rests as a whole after the 1st, 2nd, ... failure in a row, doubling."""

ENOUGH_REFUSALS = 3
"""Attempts for what the other side refuses for what it says. Not one: a mirror may not have the commit yet."""

_EPOCH_FROM = 1_000_000_000
"""A larger number for the end of a limit is a time since 1970, a smaller one is seconds from now."""

_REFUSED = frozenset({400, 405, 406, 411, 413, 414, 415, 422})
_GONE = 410
_FORBIDDEN = 403
_TOO_MANY = 429


class BoxState(StrEnum):
    """Where an announcement in the outbox is. What is delivered is no longer there."""

    PENDING = "pending"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Letter:
    """An announcement that somebody has taken to deliver it, until `claimed_until`.

    `number` grows when a newer announcement takes its place; `attempts` counts this one in. `since` is when it was
    written, or last asked to be tried again.
    """

    id: str
    number: int
    destination: str
    body: Mapping[str, Any] = field(hash=False)
    attempts: int
    since: datetime
    claimed_until: datetime


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one attempt. `status` is HTTP's, None where there was no answer; `said` is a word for people.

    `headers` have names in lower case. `is_done` says that the other side has it already.
    """

    status: int | None
    said: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_done: bool = False

    @property
    def is_good(self) -> bool:
        """Say whether it was delivered."""
        return self.is_done or (self.status is not None and 200 <= self.status < 300)


@dataclass(frozen=True, slots=True)
class Patience:
    """When an announcement is given up: after so many attempts, or so long after it was written."""

    attempts: int = 50
    age: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Delivered:
    """It has arrived."""


@dataclass(frozen=True, slots=True)
class Later:
    """It is tried again, not before `at`."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """It is given up, and waits for somebody to look."""

    reason: str


Fate = Delivered | Later | Dead


def fate(letter: Letter, reply: Reply, now: datetime, jitter: float, patience: Patience) -> Fate:
    """Say what becomes of a letter after an attempt. `jitter` is a random number from 0 to 1."""
    if reply.is_good:
        return Delivered()
    reason = told(reply)
    if reply.status == _GONE:
        return Dead(f"{reason}; it wants no more of these")
    if reply.status in _REFUSED and letter.attempts >= ENOUGH_REFUSALS:
        return Dead(reason)
    backoff_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(letter.attempts - 1, 20)) * (0.5 + jitter / 2)
    at = now + timedelta(seconds=max(backoff_s, asked_pause_s(reply, now)))
    if letter.attempts >= patience.attempts:
        return Dead(f"{reason}; given up after {letter.attempts} attempts")
    if at > letter.since + patience.age:
        return Dead(f"{reason}; given up after {(now - letter.since).total_seconds() / 3600:.1f} h")
    return Later(at, reason)


def rest_s(reply: Reply, failures: int, now: datetime, jitter: float) -> float:
    """Say how long a destination is left alone after a reply, the `failures`-th in a row that was no good.

    What it refuses for what it says is no reason to hold back anything else.
    """
    asked_s = asked_pause_s(reply, now)
    if reply.is_good or reply.status in _REFUSED:
        return asked_s
    own_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(failures - 1, 20)) * (0.5 + jitter / 2)
    return max(own_s, asked_s)


def is_its_fault(reply: Reply) -> bool:
    """Say whether a reply speaks against the destination as a whole."""
    return not reply.is_good and reply.status not in _REFUSED


def asked_pause_s(reply: Reply, now: datetime) -> float:
    """Give the seconds for which a destination asks to be left alone; 0 where it does not.

    It says so by `Retry-After` (RFC 9110, section 10.2.3), or by a rate limit that is used up (`X-RateLimit-Remaining`
    and `-Reset` as GitHub and Gitea send them, `RateLimit-...` as GitLab does), also on an answer that is good.
    """
    asked: list[float] = []
    if not reply.is_good and (given := reply.headers.get("retry-after")) is not None:
        asked.append(_retry_after_s(given, now))
    for prefix in ("x-ratelimit-", "ratelimit-"):
        if reply.headers.get(f"{prefix}remaining", "").strip() == "0":
            asked.append(_reset_s(reply.headers.get(f"{prefix}reset", ""), now))
    is_limited = reply.status == _TOO_MANY or (reply.status == _FORBIDDEN and "rate limit" in reply.said.lower())
    if is_limited and not any(asked):
        asked.append(UNSAID_LIMIT_S)
    return min(max(asked, default=0.0), LONGEST_ASKED_S)


def told(reply: Reply) -> str:
    """Say in words what was wrong with a reply."""
    if reply.status is None:
        return reply.said or "no answer"
    why = {
        401: "the token or the signature is not accepted",
        403: "not allowed",
        404: "there is no such thing there, or the token may not see it",
    }.get(reply.status, "")
    if 300 <= reply.status < 400:
        why = "it has moved, and redirects are not followed: credentials would go with them; give the new address"
    parts = [f"answer {reply.status}", why, reply.said]
    return ": ".join(part for part in parts if part)


def _retry_after_s(given: str, now: datetime) -> float:
    text = given.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())


def _reset_s(given: str, now: datetime) -> float:
    text = given.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        return 0.0
    number = float(text)
    return max(0.0, number - now.timestamp()) if number > _EPOCH_FROM else number
