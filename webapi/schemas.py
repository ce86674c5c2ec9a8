"""What goes over the wire, for every resource: errors, times, pages, and how a request or an answer is made.

The modules `*_schemas` hold the rest, one a resource; the OpenAPI document is made from all of them. Times are UTC,
ISO 8601 with `Z`. Requests refuse members that they do not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from reconciler.core.times import iso
from webapi.paging import DEFAULT_LIMIT, LARGEST_LIMIT

UtcTime: TypeAlias = Annotated[
    datetime,
    PlainSerializer(iso, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

KEY_EXAMPLE = "svc-alice-20260106-123000-abcd"
SHA_EXAMPLE = "8c1f0a5f3b0f4a1d9d0e6a7b5c4d3e2f1a0b9c8d"


class Answer(BaseModel):
    """An answer, or part of one: a value."""

    model_config = ConfigDict(frozen=True)


class Query(BaseModel):
    """What is asked for in an address, after its `?`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Body(BaseModel):
    """What is asked for in a body, or part of it: there a string is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ErrorDetail(Answer):
    """What went wrong."""

    code: str = Field(description="For machines; stable.", examples=["not_found"])
    message: str = Field(description="For people: what was wrong and what would be right.")
    details: dict[str, Any] = Field(description="What else is known, e.g. the `field` and `line` of a spec.")


class ErrorBody(Answer):
    """The body of every answer that is an error."""

    error: ErrorDetail


class PageQuery(Query):
    """Which page of a list."""

    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=LARGEST_LIMIT, description="The most items in one answer.")
    cursor: str | None = Field(default=None, max_length=512, description="`next_cursor` of the page before.")
