"""What `argus.yaml` says: who is suspended, and when changes wait. Values, and the gates that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from reconciler.core import cron
from reconciler.core.desired import Withheld
from reconciler.core.entities import Declared, HoldKind, Identity
from reconciler.core.gates import Pending
from reconciler.core.history import OVERRIDE_FREEZE

Reasons = Mapping[str, str | None]
"""Whom it is about -> why, in somebody's own words; None where they gave none."""

_MOST_WINDOWS = 60
"""How many windows that follow one another are looked at for the end of a freeze."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """A window in which changes wait: it opens when `cron` says so in `zone`, and closes after `duration`.

    `users` are those whom it is about, None for all.
    """

    cron: cron.Cron
    duration: timedelta
    zone: tzinfo
    reason: str | None = None
    users: frozenset[str] | None = None

    def about(self, user_id: str) -> bool:
        """Say whether a user's models are meant."""
        return self.users is None or user_id in self.users

    def closes(self, at: datetime) -> datetime | None:
        """Say when the window that is open at `at` closes; None where none is open."""
        start = cron.last_start(self.cron, self.zone, at, self.duration)
        return start + self.duration if start is not None else None


@dataclass(frozen=True, slots=True)
class HoldRules:
    """All of `argus.yaml`. `everything` is why all is suspended ("" without a reason), None where it is not.

    `models` are by `<user_id>/<suffix>`, or by model key.
    """

    everything: str | None = None
    users: Reasons = field(default_factory=dict)
    models: Reasons = field(default_factory=dict)
    freezes: tuple[Freeze, ...] = ()


NO_RULES = HoldRules()


def suspended(rules: HoldRules, changes: Mapping[str, Pending]) -> dict[str, Withheld]:
    """Hold back the changes of whoever is suspended."""
    found = {}
    for key, change in changes.items():
        why = suspension(rules, change.identity)
        if why is not None:
            found[key] = Withheld(HoldKind.SUSPENDED, why)
    return found


def suspension(rules: HoldRules, who: Identity) -> str | None:
    """Say why a model is suspended; None where it is not. The nearest reason counts: its own, its user's, all's."""
    for name in (f"{who.user_id}/{who.suffix}", who.model_key):
        if name in rules.models:
            return _said("this model is suspended", rules.models[name])
    if who.user_id in rules.users:
        return _said(f"the models of {who.user_id} are suspended", rules.users[who.user_id])
    return None if rules.everything is None else _said("all models are suspended", rules.everything)


def frozen(
    rules: HoldRules,
    changes: Mapping[str, Pending],
    now: datetime,
    since: Callable[[str], tuple[Declared, ...]],
) -> tuple[dict[str, Withheld], dict[str, Declared]]:
    """Hold back the changes that a window keeps waiting, and give those that a commit lets pass all the same, with it.

    `since` gives the commits with trailers that are not older than a commit: an override counts for what was on the
    branch when it was made.
    """
    held, overridden = {}, {}
    users = {change.identity.user_id for change in changes.values()}
    freezes = {user_id: freeze(rules, user_id, now) for user_id in users}
    for key, change in changes.items():
        found = freezes[change.identity.user_id]
        if found is None:
            continue
        override = next((each for each in since(change.commit.sha) if OVERRIDE_FREEZE in each.trailers), None)
        if override is not None:
            overridden[key] = override
            continue
        until, reason = found
        held[key] = Withheld(HoldKind.FROZEN, _said(f"frozen until {until:%Y-%m-%dT%H:%M:%SZ}", reason))
    return held, overridden


def freeze(rules: HoldRules, user_id: str, now: datetime) -> tuple[datetime, str | None] | None:
    """Give the end of the freeze that a user's models are in (UTC) and its reason; None where they are in none.

    Windows that overlap, or follow one another without a gap, are one freeze.
    """
    windows = [each for each in rules.freezes if each.about(user_id)]
    reason, until = None, now
    for step in range(_MOST_WINDOWS):
        ends = [(end, each.reason) for each in windows if (end := each.closes(until)) is not None]
        if not ends:
            return None if step == 0 else (until, reason)
        until, why = max(ends, key=lambda each: each[0])
        reason = why if step == 0 else reason
    return until, reason


def _said(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what
