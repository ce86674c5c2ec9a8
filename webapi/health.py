"""A sign of life, for load balancers and supervisors. Open to all, and cheap: it asks nobody."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from webapi import openapi, schemas

health = openapi.blueprint("health", prefix=openapi.PREFIX, about="Signs of life.", is_open=True)


@health.get(
    "/healthz",
    summary="Say that the API is alive",
    responses={HTTPStatus.OK: schemas.HealthView, HTTPStatus.INTERNAL_SERVER_ERROR: schemas.ErrorBody},
)
def read_health() -> dict[str, Any]:
    """Answer as long as this process takes requests."""
    return schemas.HealthView(status="ok").model_dump()
