"""What goes over the wire for holds: brakes that are on, who is suspended, and what is asked to change that."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from webapi.schemas import Answer, Body, UtcTime

Reason = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""One line of text."""


class RemovalsAllowed(Body):
    """So many removals are meant."""

    model_config = ConfigDict(json_schema_extra={"example": {"count": 5}})

    count: int = Field(ge=1, le=1_000_000, description="How many running models may go: as many as are held.")
    revision: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{40}$",
        description="The branch's head as you saw it: 412 where it is another by now.",
    )
    reason: Reason | None = Field(default=None, description="For the commit's message.")


class FreezeOverride(Body):
    """Why what is on the branch must not wait."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "customers cannot log in"}})

    reason: Reason


def _one_of_three(schema: dict[str, Any]) -> None:
    """Say that one of the three is given, and is not null then."""
    names = ("model", "user_id", "all")
    schema["oneOf"] = [{"required": [name]} for name in names]
    for name in names[:2]:
        described = schema["properties"][name]
        described |= described.pop("anyOf")[0]
        del described["default"]
    schema["properties"]["all"] |= {"const": True}
    del schema["properties"]["all"]["default"]


class Suspended(Body):
    """Who is meant: exactly one of `model`, `user_id` and `all`."""

    model_config = ConfigDict(json_schema_extra=_one_of_three)

    model: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="A model: <user_id>/<suffix>, the path of its file, or its key."
    )
    user_id: Annotated[str, Field(max_length=40)] | None = Field(default=None, description="All models of a user.")
    all: bool = Field(default=False, description="All models. Admin only.")
    reason: Reason | None = Field(default=None, description="Shown wherever a change is held.")


class HoldWritten(Answer):
    """What was asked for is in git now, or was there already."""

    commit: str | None = Field(description="The commit that says so; null where nothing had to be said.")
    changed: bool


class HeldRemoval(Answer):
    """A model whose removal is held."""

    model_key: str
    path: str
    user_id: str
    commit: str = Field(description="The commit that removed its file.")
    since: UtcTime


class HeldRemovals(Answer):
    """What the mass-delete brake holds, as of the last pass."""

    revision: str | None = Field(description="The branch's head: send it with the confirmation.")
    count: int = Field(description="How many of them run: the number that has to be allowed.")
    running: int = Field(description="How many models run.")
    items: list[HeldRemoval]
