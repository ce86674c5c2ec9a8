"""What a pass tells the outside: commit statuses and notifications, from what it has written down.

Pure, so that what is announced can be written in the same transaction as what it is about: nothing is lost, and
nothing is announced that did not happen. An announcement's `id` is a function of what it says, and stays through every
attempt to deliver it. What git notes told a new ledger (`Advance.restored`) is never looked at here: it is old news.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from reconciler.core.cases import Case, Verdict, worst
from reconciler.core.entities import Event, EventType
from reconciler.core.times import iso

STATUSES = "statuses"
"""The destination of commit statuses. Those of notifications are `hook:<name>`."""

VERDICT_GIVEN = "VERDICT_GIVEN"
"""What a notification about the verdict on one commit's change of one spec file is called, beside the event types."""

KINDS = frozenset({*(kind.value for kind in EventType), VERDICT_GIVEN})
"""What can be notified of."""

LONGEST_DESCRIPTION = 255
"""Characters of a status's description. Providers cut it further."""

MOST_PARTS = 50
"""A commit of more files (or users) than this has one status for all of them, whatever the configuration asks for."""

_ON_THE_WAY = "seen; what it asks for is on its way"

AlsoPer: TypeAlias = Literal["user", "file"]


class Outlook(StrEnum):
    """A commit status in the words that most providers have for it."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    """It was refused: its content or a policy is the reason."""
    ERROR = "error"
    """It was tried, and did not come up."""


OUTLOOKS: Mapping[Verdict, Outlook] = {
    Verdict.APPLIED: Outlook.SUCCESS,
    Verdict.NO_CHANGE: Outlook.SUCCESS,
    Verdict.REMOVED: Outlook.SUCCESS,
    # Nothing is wrong with it, and no provider but GitLab has a neutral state: its description names who took over.
    Verdict.SUPERSEDED: Outlook.SUCCESS,
    Verdict.REJECTED: Outlook.FAILURE,
    Verdict.HELD: Outlook.FAILURE,
    Verdict.FAILED: Outlook.ERROR,
}


@dataclass(frozen=True, slots=True)
class StatusRules:
    """How commit statuses are made. In `target_url` the text `{sha}` stands for the commit's full SHA."""

    context: str = "argus"
    also_per: AlsoPer | None = None
    target_url: str | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who is notified of what: of these `KINDS`, about these users' models; None is all of them.

    What is about no single user goes only to whom all users are of interest.
    """

    name: str
    kinds: frozenset[str] | None = None
    users: frozenset[str] | None = None

    @property
    def destination(self) -> str:
        """Where its announcements go."""
        return f"hook:{self.name}"

    def wants(self, kind: str, user_id: str) -> bool:
        """Say whether it is to be told."""
        return (self.kinds is None or kind in self.kinds) and (self.users is None or user_id in self.users)


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told anything at all. `source` names this platform in notifications (a URI reference)."""

    statuses: StatusRules | None = None
    subscriptions: tuple[Subscription, ...] = ()
    source: str = "urn:argus"


@dataclass(frozen=True, slots=True)
class Announcement:
    """One thing to be told to one destination. `body` is JSON; a newer one of the same `id` takes its place."""

    id: str
    destination: str
    body: Mapping[str, Any] = field(hash=False)


def statuses(
    rules: StatusRules | None, before: Mapping[str, Sequence[Case]], after: Mapping[str, Sequence[Case]]
) -> tuple[Announcement, ...]:
    """Give the statuses that a pass has changed.

    `after` holds all cases of each commit that the pass touched (by full SHA), `before` those as they were.
    """
    if rules is None:
        return ()
    found = []
    for sha, cases in after.items():
        known = _statuses(rules, sha, before.get(sha, ()))
        for context, body in _statuses(rules, sha, cases).items():
            if known.get(context) != body:
                found.append(Announcement(f"st-{_digest(sha, context)}", STATUSES, body))
    return tuple(found)


def notifications(
    audience: Audience, events: Iterable[Event], cases: Iterable[Case], now: datetime
) -> tuple[Announcement, ...]:
    """Give what subscribers are told of a pass's events, and of the verdicts that it gave, in this order.

    They are CloudEvents 1.0. `now` is the time of the verdicts: a case does not say when it was closed.
    """
    if not audience.subscriptions:
        return ()
    told = [_of_event(audience.source, event, place) for place, event in enumerate(events)]
    told += [_of_verdict(audience.source, case, now) for case in cases if case.verdict is not None]
    return tuple(
        Announcement(f"{body['id']}-{each.name}", each.destination, body)
        for kind, user_id, body in told
        for each in audience.subscriptions
        if each.wants(kind, user_id)
    )


def _statuses(rules: StatusRules, sha: str, cases: Sequence[Case]) -> dict[str, Mapping[str, Any]]:
    """Give a commit's statuses by context: of the whole of it, and of its parts where that is wanted."""
    if not cases:
        return {}
    parts: dict[str, list[Case]] = {rules.context: list(cases)}
    if rules.also_per is not None:
        finer: dict[str, list[Case]] = {}
        for case in cases:
            part = case.user_id if rules.also_per == "user" else _short(case.path)
            finer.setdefault(f"{rules.context}/{part}", []).append(case)
        parts |= finer if len(finer) <= MOST_PARTS else {}
    url = rules.target_url.replace("{sha}", sha) if rules.target_url else None
    return {
        context: {"sha": sha, "context": context, **_status(some), "target_url": url} for context, some in parts.items()
    }


def _status(cases: Sequence[Case]) -> dict[str, str]:
    verdict = worst(case.verdict for case in cases)
    if verdict is None:
        # No numbers and no stages in it: a provider takes 1,000 statuses of a commit, and this is one.
        return {"state": Outlook.PENDING.value, "description": _ON_THE_WAY}
    alike = sorted((case for case in cases if case.verdict is verdict), key=lambda case: case.path)
    share = f" {len(alike)} of {len(cases)} files," if len(cases) > 1 else ""
    said = _plain(_said(alike[0]))
    text = f"{verdict.value}{share} {_short(alike[0].path)}{': ' if said else ''}{said}"
    return {"state": OUTLOOKS[verdict].value, "description": cut(text, LONGEST_DESCRIPTION)}


def _said(case: Case) -> str:
    match case.verdict:
        case Verdict.APPLIED:
            return "it answers"
        case Verdict.REMOVED:
            return "the model is gone"
        case Verdict.SUPERSEDED if case.superseded_by:
            return f"commit {case.superseded_by[:12]} took its place"
        case Verdict.REJECTED if case.line is not None:
            return f"line {case.line}: {case.message or ''}"
        case _:
            return case.message or ""


def cut(text: str, longest: int) -> str:
    """Give at most `longest` characters of a text, with an ellipsis where that is not all of it."""
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def _of_event(source: str, event: Event, place: int) -> tuple[str, str, dict[str, Any]]:
    data = {
        "event_type": event.event_type.value,
        "model_key": event.model_key or None,
        "user_id": event.user_id or None,
        "created_at": iso(event.created_at),
        "commit": event.commit,
        "author": event.author,
        "source": event.source,
        "payload": dict(event.payload),
    }
    id_ = f"ev-{_digest(source, str(place), json.dumps(data, sort_keys=True))}"
    return (
        event.event_type.value,
        event.user_id,
        _cloud_event(source, id_, event.event_type.value, event.created_at, data),
    )


def _of_verdict(source: str, case: Case, now: datetime) -> tuple[str, str, dict[str, Any]]:
    data = {
        "commit": case.commit.sha,
        "author": case.commit.author,
        "subject": case.commit.subject,
        "path": case.path,
        "model_key": case.model_key,
        "user_id": case.user_id,
        "verdict": case.verdict,
        "message": case.message,
        "line": case.line,
        "column": case.column,
        "superseded_by": case.superseded_by,
    }
    id_ = f"ev-{_digest(source, case.commit.sha, case.path)}"  # there is one verdict on it, ever
    return VERDICT_GIVEN, case.user_id, _cloud_event(source, id_, VERDICT_GIVEN, now, data)


def _cloud_event(source: str, id_: str, kind: str, time: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """Give an event as CloudEvents 1.0 has it. What is about no single model has no subject."""
    subject = {"subject": data["model_key"]} if data["model_key"] else {}
    return {
        "specversion": "1.0",
        "id": id_,
        "source": source,
        "type": f"io.argus.{kind.lower()}",
        **subject,
        "time": iso(time),
        "datacontenttype": "application/json",
        "data": data,
    }


def _short(path: str) -> str:
    """Give `users/alice/qwen.yaml` as `alice/qwen`: descriptions are short."""
    return path.removeprefix("users/").removesuffix(".yaml")


def _plain(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:32]
