"""Events about one model, from its record."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from reconciler.core.entities import Commit, Event, EventType, Record


def event_of(record: Record, event_type: EventType, commit: Commit, now: datetime, **payload: Any) -> Event:
    """Tell of a model what `commit` caused at `now`."""
    return Event(
        event_type=event_type,
        model_key=record.identity.model_key,
        user_id=record.identity.user_id,
        created_at=now,
        commit=commit.sha,
        author=commit.author,
        source=commit.source,
        payload=payload,
    )
