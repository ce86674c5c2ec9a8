"""What goes over the wire for the outbox: commit statuses and notifications that have not arrived."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from webapi.schemas import Answer, PageQuery, UtcTime

_ANNOUNCEMENT_EXAMPLE = "st-0f3c6b0d8c1e4a5f9b2d7e6a1c4b8f30"


class OutboxItem(Answer):
    """A commit status or a notification that has not arrived."""

    id: str = Field(examples=[_ANNOUNCEMENT_EXAMPLE])
    destination: str = Field(
        description="`statuses`, or `hook:` and the name of one of the `notifications`.", examples=["statuses"]
    )
    state: Literal["pending", "dead"] = Field(description="dead: given up, until somebody asks for it again.")
    since: UtcTime = Field(description="When it was written, or last asked for again.")
    attempts: int
    next_attempt_at: UtcTime | None = Field(description="Not before this; null where it was given up.")
    given_up_at: UtcTime | None
    error: str | None = Field(description="What the last attempt came to; null before one that failed.")
    body: dict[str, Any] = Field(description="What is told: a status, or a CloudEvent.")


class OutboxList(Answer):
    """One page of the outbox, newest first."""

    items: list[OutboxItem]
    next_cursor: str | None


class OutboxQuery(PageQuery):
    """Which part of the outbox, and which page of it."""

    state: Literal["pending", "dead"] | None = Field(default=None, description="Only these. Default: both.")


class AnnouncementPath(BaseModel):
    """One announcement in the outbox."""

    announcement_id: str = Field(pattern=r"^[A-Za-z0-9-]{1,120}$", json_schema_extra={"example": _ANNOUNCEMENT_EXAMPLE})
