"""The platform's status, for the admin: what the reconciler last saw of Serve and of itself."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from reconciler.core.delivery import BoxState
from reconciler.core.entities import PLATFORM, State
from reconciler.errors import SourceUnreachable
from webapi import holding, openapi, reading, status_schemas, views
from webapi.auth import require_admin
from webapi.parts import Parts, parts

MOST_EVENTS = 20

status = openapi.blueprint("status", prefix=openapi.PREFIX, about="The platform in a few numbers. For the admin.")


@status.get(
    "/serve/status",
    summary="Show the platform's status",
    responses=openapi.answers(HTTPStatus.OK, status_schemas.PlatformSummary, HTTPStatus.FORBIDDEN),
)
def read_status() -> dict[str, Any]:
    """Show the application, the GPUs, the repository's revision, and how many models are in each state. Admin only.

    Where the repository does not answer, `revision.error` says so, and the models are those that the loop knows.
    """
    require_admin()
    platform = parts()
    counted, head, trouble, holds = _repository(platform)
    waiting = platform.outbox.counts()
    summary = views.platform(
        counted,
        head,
        platform.reader.status(),
        fetched_at=platform.store.fetched_at(),
        trouble=trouble,
        holds=holds,
        outbox=status_schemas.OutboxSummary(pending=waiting[BoxState.PENDING], dead=waiting[BoxState.DEAD]),
        events=[event for _, event in platform.reader.recent_events(PLATFORM, MOST_EVENTS)],
    )
    return summary.model_dump(mode="json")


def _repository(
    platform: Parts,
) -> tuple[Counter[State], str | None, str | None, status_schemas.HoldsSummary | None]:
    """Count the models by state; with the branch's head, what is wrong with the repository, and what is held back."""
    try:
        models, tree = reading.all_models(platform, None)
        read = [reading.with_spec(platform, model) for model in models]
        records = [model.record for model in models if model.record is not None]
        holds = holding.summary(platform, tree, records, datetime.now(UTC))
    except SourceUnreachable as error:
        return Counter(record.state for record in platform.reader.models(None).values()), None, str(error), None
    return Counter(views.state(model) for model in read), tree.revision, platform.store.trouble, holds
