"""The platform's status, for the admin: what the reconciler last saw of Serve and of itself."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from webapi import openapi, reading, schemas, views
from webapi.auth import require_admin
from webapi.parts import parts

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
    return views.platform(read, tree.revision, platform.reader.status()).model_dump(mode="json")
