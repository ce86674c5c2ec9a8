"""Which public names there are, and what is said for each while nothing answers under it.

Whoever reaches a front reads these words, not only the model's owner: they say how a model is, never what its engine
or its folder said.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.core.entities import Record, State
from reconciler.core.routes import Name, Unavailable

_LOADING = Unavailable("model_loading", "is still loading", 10)
_LOST = Unavailable("model_loading", "has lost its replicas, which are being started again", 5)
_QUEUED = Unavailable("model_not_ready", "has been asked for and is about to start", 10)
_NO_ROOM = Unavailable("model_not_ready", "is waiting for free GPUs", 60)
_REFUSED = Unavailable("model_not_ready", "is not served: its spec was refused", 60)
_FAILED = Unavailable("model_failed", "failed to start and will be tried again", 60)

_GONE = {State.DELETING, State.DELETED}


def names(records: Iterable[Record]) -> tuple[Name, ...]:
    """Give the name of every model that is not on its way out."""
    return tuple(_name(record) for record in records if record.state not in _GONE)


def _name(record: Record) -> Name:
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
        unavailable=_unavailable(record),
    )


def _unavailable(record: Record) -> Unavailable:
    if record.spec is None:
        return _REFUSED
    match record.state:
        case State.QUEUED:
            # Only a model that was planned and did not fit has something to say while it is queued.
            return _NO_ROOM if record.error_summary else _QUEUED
        case State.DEPLOYING:
            return _LOADING if record.serving is None else _LOST
        case State.RUNNING:
            return _LOST
        case _:
            return _FAILED
