"""Brakes and their release: removals that are held, and a freeze that must not hold something.

Both are said by a commit that changes no file: git stays the truth, and tells who let pass what.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from reconciler.core.entities import HoldKind, Record
from reconciler.core.gates import is_up
from reconciler.core.history import ALLOW_REMOVAL, OVERRIDE_FREEZE
from reconciler.shell.git_answers import scrub
from webapi import hold_schemas, openapi
from webapi.auth import caller, require_admin
from webapi.bodies import read_json
from webapi.parts import Parts, parts
from webapi.problems import Conflict, HeadMoved

brakes = openapi.blueprint("brakes", prefix=f"{openapi.PREFIX}/serve", about="What is held back, and letting it pass.")

_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


@brakes.get(
    "/removals",
    summary="Show removals that are held",
    responses=openapi.answers(HTTPStatus.OK, hold_schemas.HeldRemovals, HTTPStatus.FORBIDDEN),
)
def list_removals() -> dict[str, Any]:
    """Show what the mass-delete brake holds. Admin only."""
    require_admin()
    platform = parts()
    records = platform.reader.models(None)
    held = braked(records.values())
    found = hold_schemas.HeldRemovals(
        revision=platform.store.read().revision,
        count=sum(is_up(record) for record in held),
        running=sum(is_up(record) for record in records.values()),
        items=[
            hold_schemas.HeldRemoval(
                model_key=record.identity.model_key,
                path=record.identity.path,
                user_id=record.identity.user_id,
                commit=record.held.commit.sha,
                since=record.held.since,
            )
            for record in sorted(held, key=lambda record: record.identity.path)
            if record.held is not None
        ],
    )
    return found.model_dump(mode="json")


@brakes.post(
    "/removals",
    summary="Allow removals that are held",
    openapi_extensions=openapi.json_body(hold_schemas.RemovalsAllowed),
    responses=openapi.answers(HTTPStatus.ACCEPTED, hold_schemas.HoldWritten, HTTPStatus.PRECONDITION_FAILED, *_BODY),
)
def allow_removals() -> tuple[dict[str, Any], int]:
    """Say by a commit that the removals which the brake holds are meant, all of them. Admin only.

    409 where another number is held, as of the last pass: look again at what would go.
    """
    require_admin()
    platform = parts()
    asked = read_json(hold_schemas.RemovalsAllowed)
    held = sum(is_up(record) for record in braked(platform.reader.models(None).values()))
    if asked.count != held:
        raise Conflict(
            f"{held} removals of running models are held, not {asked.count}; look at them, and give their number",
            count=held,
        )

    def is_as_seen(head: str | None) -> None:
        if asked.revision not in {None, head}:
            raise HeadMoved(head)

    commit = platform.store.declare(
        {ALLOW_REMOVAL: str(asked.count)},
        author=caller().author,
        subject=f"Allow {asked.count} removals",
        body=_because(asked.reason),
        condition=is_as_seen,
    )
    return _said(platform, commit)


@brakes.post(
    "/freeze/override",
    summary="Let pass what a freeze holds",
    openapi_extensions=openapi.json_body(hold_schemas.FreezeOverride),
    responses=openapi.answers(HTTPStatus.ACCEPTED, hold_schemas.HoldWritten, *_BODY),
)
def override_freeze() -> tuple[dict[str, Any], int]:
    """Let pass, by a commit, what is on the branch by now and waits for the end of a freeze. Admin only.

    What comes after that commit waits as before.
    """
    require_admin()
    platform = parts()
    asked = read_json(hold_schemas.FreezeOverride)
    commit = platform.store.declare(
        {OVERRIDE_FREEZE: asked.reason}, author=caller().author, subject="Override the freeze"
    )
    return _said(platform, commit)


def braked(records: Iterable[Record]) -> list[Record]:
    """Give the models whose removal the brake holds."""
    return [each for each in records if each.held and each.held.removes and each.held.kind is HoldKind.BRAKE]


def _said(platform: Parts, commit: str) -> tuple[dict[str, Any], int]:
    platform.nudge()
    written = hold_schemas.HoldWritten(commit=commit, changed=True)
    return written.model_dump(mode="json"), HTTPStatus.ACCEPTED


def _because(reason: str | None) -> str:
    """Write the reason as a paragraph that cannot pass for a trailer: the trailers' own comes after it."""
    return f"Reason: {scrub(reason)}" if reason else ""
