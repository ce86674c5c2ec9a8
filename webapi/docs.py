"""The OpenAPI document and a page to read it with. Both are open to all; the page needs nothing from the network.

Swagger UI's files come from the package flask-openapi3-swagger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask_openapi3_swagger  # type: ignore[import-untyped]  # only its folder is used
from flask import Blueprint, Response, current_app, redirect
from werkzeug.wrappers import Response as AnyResponse

from webapi import openapi

_ASSETS = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Argus API</title>
<link rel="icon" href="/docs/assets/images/swagger.svg">
<link rel="stylesheet" href="/docs/assets/css/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/assets/js/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, persistAuthorization: false});
</script>
</body>
</html>
"""

docs = Blueprint("docs", __name__, static_folder=str(_ASSETS), static_url_path="/docs/assets")


@docs.get("/")
def index() -> AnyResponse:
    """Lead people who look around to the documentation."""
    return redirect("/docs")


@docs.get("/docs")
def page() -> Response:
    """Show the API to people."""
    return Response(_PAGE, mimetype="text/html")


@docs.get("/openapi.json")
def document() -> dict[str, Any]:
    """Give the OpenAPI document."""
    return openapi.document(current_app)
