"""The platform's status, for the admin: what the reconciler last saw of Serve and of itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from reconciler.core.delivery import BoxState
from reconciler.core.entities import PLATFORM
from webapi import openapi, reading, schemas, views
from webapi.auth import require_admin
from webapi.parts import parts

MOST_EVENTS = 20

status = openapi.blueprint("status", prefix=openapi.PREFIX, about="The platform in a few numbers. For the admin.")


@status.get(
    "/serve/status",
    summary="Show the platform's status",
    responses=openapi.answers(HTTPStatus.OK, schemas.PlatformSummary, HTTPStatus.FORBIDDEN),
)
def read_status() -> dict[str, Any]:
    """Show the application, the GPUs, the repository's revision, and how many models are in each state. Admin only."""
    require_admin()
    platform = parts()
    models, tree = reading.all_models(platform, None)
    read = (reading.with_spec(platform, model) for model in models)
    waiting = platform.outbox.counts()
    summary = views.platform(
        read,
        tree.revision,
        platform.reader.status(),
        fetched_at=platform.store.fetched_at(),
        trouble=platform.store.trouble,
        outbox=schemas.OutboxSummary(pending=waiting[BoxState.PENDING], dead=waiting[BoxState.DEAD]),
        events=[event for _, event in platform.reader.recent_events(PLATFORM, MOST_EVENTS)],
    )
    return summary.model_dump(mode="json")
