"""The outbox, for the admin: what is still to be told to the outside, what was given up and why, and once more."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from reconciler.core.delivery import BoxState
from reconciler.shell.ledger import Entry
from webapi import openapi, outbox_schemas, paging
from webapi.auth import require_admin
from webapi.parts import parts
from webapi.problems import NotFound

outbox = openapi.blueprint(
    "outbox",
    prefix=f"{openapi.PREFIX}/serve",
    about="Commit statuses and notifications that have not arrived. For the admin.",
)


@outbox.get(
    "/outbox",
    summary="List what has not arrived",
    responses=openapi.answers(HTTPStatus.OK, outbox_schemas.OutboxList, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST),
)
def list_outbox(query: outbox_schemas.OutboxQuery) -> dict[str, Any]:
    """List commit statuses and notifications that wait or were given up, newest first. What has arrived is not kept."""
    require_admin()
    state = None if query.state is None else BoxState(query.state)
    found = parts().outbox.page(state, query.limit + 1, paging.number_after(query.cursor))
    shown = found[: query.limit]
    more = paging.cursor_to((str(shown[-1].number),)) if len(found) > query.limit else None
    return outbox_schemas.OutboxList(items=[_view(entry) for entry in shown], next_cursor=more).model_dump(mode="json")


@outbox.post(
    "/outbox/<announcement_id>/retry",
    summary="Send one again",
    responses=openapi.answers(
        HTTPStatus.ACCEPTED,
        outbox_schemas.OutboxItem,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.BAD_REQUEST,
    ),
)
def retry_announcement(path: outbox_schemas.AnnouncementPath) -> tuple[dict[str, Any], int]:
    """Make a status or a notification due at once, with all its attempts before it again."""
    require_admin()
    found = parts().outbox.retry(path.announcement_id, datetime.now(UTC))
    if found is None:
        raise NotFound("there is no such announcement in the outbox; what has arrived is not kept")
    return _view(found).model_dump(mode="json"), HTTPStatus.ACCEPTED


def _view(entry: Entry) -> outbox_schemas.OutboxItem:
    is_dead = entry.state is BoxState.DEAD
    return outbox_schemas.OutboxItem(
        id=entry.id,
        destination=entry.destination,
        state=entry.state.value,
        since=entry.since,
        attempts=entry.attempts,
        next_attempt_at=None if is_dead else entry.next_at,
        given_up_at=entry.next_at if is_dead else None,
        error=entry.trouble,
        body=dict(entry.body),
    )
