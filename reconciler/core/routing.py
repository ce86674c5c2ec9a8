"""Which public names there are, and what is said for each while nothing answers under it.

Whoever reaches a front reads these words, not only the model's owner: they say how a model is, never what its engine
or its folder said.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from reconciler.core.entities import Record, State
from reconciler.core.estimates import retry_after_s
from reconciler.core.room import is_changing
from reconciler.core.routes import Name, Unavailable

_LONG_S = 60

_QUEUED = Unavailable("model_not_ready", "has been asked for and is about to start", 10)
_REFUSED = Unavailable("model_not_ready", "is not served: its spec was refused", _LONG_S)
_TOO_BIG = Unavailable("model_not_ready", "needs more GPUs than the cluster has", _LONG_S)
_FAILED = Unavailable("model_failed", "failed to start and will be tried again", _LONG_S)

_PHASES = {
    "scheduling": "is about to be loaded: its replicas are being placed",
    "loading": "is still loading",
    "warming_up": "is still loading: warming up",
    None: "is still loading",
}

_GONE = {State.DELETING, State.DELETED}


def names(records: Iterable[Record], now: datetime) -> tuple[Name, ...]:
    """Give the name of every model that is not on its way out.

    Equal from one pass to the next as long as nothing happens: what counts down does so in steps.
    """
    return tuple(_name(record, now) for record in records if record.state not in _GONE)


def _name(record: Record, now: datetime) -> Name:
    identity = record.identity
    commits = {}
    if record.serving is not None and record.serving_commit is not None:
        commits[record.serving.version] = record.serving_commit.sha
    if record.applied is not None and record.applied_commit is not None:
        commits[record.applied.version] = record.applied_commit.sha
    return Name(
        model_id=identity.model_id,
        model_key=identity.model_key,
        owner=identity.user_id,
        created=int(identity.created_at.timestamp()),
        commits=commits,
        unavailable=_unavailable(record, now),
    )


def _unavailable(record: Record, now: datetime) -> Unavailable:
    if record.spec is None:
        return _REFUSED
    match record.state:
        case State.QUEUED:
            return _QUEUED if record.waiting is None else _waiting(record, now)
        case State.DEPLOYING | State.RUNNING:
            retry_s = retry_after_s(record.load_estimate_s, record.since, now)
            return Unavailable("model_loading", _on_its_way(record), retry_s)
        case _:
            return _FAILED if record.waiting is None else _TOO_BIG


def _waiting(record: Record, now: datetime) -> Unavailable:
    """Nobody knows when there will be room; then the model still has to load, all of it."""
    retry_s = max(_LONG_S, retry_after_s(record.load_estimate_s, now, now))
    return Unavailable("model_not_ready", "is waiting for free GPUs", retry_s)


def _on_its_way(record: Record) -> str:
    phase = record.deployment.phase if record.deployment is not None else None
    if record.serving is None:
        return _PHASES[phase]
    if is_changing(record):
        return "is being updated, and is down until the new version answers"
    return "has lost its replicas, which are being started again"
