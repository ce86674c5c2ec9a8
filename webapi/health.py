"""Signs of life, for load balancers and supervisors. Open to all, and cheap."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from webapi import openapi, readiness, schemas, status_schemas

health = openapi.blueprint("health", prefix=openapi.PREFIX, about="Signs of life.", security=())


@health.get(
    "/healthz",
    summary="Say that the API is alive",
    responses={HTTPStatus.OK: status_schemas.HealthView, HTTPStatus.INTERNAL_SERVER_ERROR: schemas.ErrorBody},
)
def read_health() -> dict[str, Any]:
    """Answer as long as this process takes requests. It asks nobody."""
    return status_schemas.HealthView(status="ok").model_dump()


@health.get(
    "/readyz",
    summary="Say whether the API can do its work",
    responses={
        HTTPStatus.OK: status_schemas.ReadyView,
        HTTPStatus.SERVICE_UNAVAILABLE: status_schemas.ReadyView,
        HTTPStatus.INTERNAL_SERVER_ERROR: schemas.ErrorBody,
    },
)
def read_readiness() -> tuple[dict[str, Any], int]:
    """Say whether the ledger and the spec repository answer: 200, or 503 with the reasons. It takes 2 s at most."""
    found = readiness.troubles()
    view = status_schemas.ReadyView(
        status="not_ready" if any(found.values()) else "ready",
        checks={name: trouble is None for name, trouble in found.items()},
        reasons=[trouble for trouble in found.values() if trouble is not None],
    )
    return view.model_dump(), HTTPStatus.SERVICE_UNAVAILABLE if view.reasons else HTTPStatus.OK
