"""What a front answers itself, without a model: the lists of models, and every refusal, in OpenAI's form.

Pure, and sent to the cluster by value: both fronts (HAProxy's desk and Ray's ingress) speak with these words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.routes import Route, RoutingTable
from reconciler.core.wire import INFERENCE

MODELS = "/v1/models"
RETRY_STARTING_S = 2
RETRY_LOST_S = 2

_TOO_LARGE = "the request's body is larger than {limit} bytes"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: its body is JSON (or nothing at all for None)."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Give the body as bytes."""
        return b"" if self.body is None else json.dumps(self.body, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Forward:
    """The request is a model's: it goes to one of the route's targets."""

    route: Route


def refuse(status: int, message: str, code: str | None, retry_after_s: int | None = None) -> Answer:
    """Give an error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Answer(status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, headers)


def starting() -> Answer:
    """Refuse because nothing is known yet."""
    return refuse(503, "the platform is starting; try again", "starting", RETRY_STARTING_S)


def too_large(limit_bytes: int) -> Answer:
    """Refuse a body that is too large."""
    return refuse(413, _TOO_LARGE.format(limit=limit_bytes), "request_too_large")


def lost() -> Answer:
    """Say that every replica that could have answered is gone, before the first byte."""
    return refuse(503, "the replica that was to answer is gone; try again", "replica_lost", RETRY_LOST_S)


def options(path: str) -> Answer:
    """Say which methods a path takes. No page of another origin is let in: there is no CORS here."""
    return Answer(204, None, {"Allow": "POST, OPTIONS" if path in INFERENCE else "GET, HEAD, OPTIONS"})


def model_card(route: Route) -> dict[str, Any]:
    """Describe a model as OpenAI does."""
    return {"id": route.model_id, "object": "model", "created": route.created, "owned_by": route.owner}


def decide(table: RoutingTable | None, method: str, path: str, body: bytes) -> Answer | Forward:  # noqa: PLR0911  one return a refusal
    """Say what becomes of a request.

    Args:
        table: What is known; None before anything is.
        method: The HTTP method, in capitals.
        path: The path, decoded, without its query.
        body: The whole body, within its limit.
    """
    if path == MODELS or path.startswith(MODELS + "/"):
        if method not in {"GET", "HEAD"}:
            return _method_not_allowed(method, path, "GET")
        if table is None:
            return starting()
        return _models(table) if path == MODELS else _model(table, path.removeprefix(MODELS + "/"))
    if path not in INFERENCE:
        return refuse(404, f"there is no {path} here", "not_found")
    if method != "POST":
        return _method_not_allowed(method, path, "POST")
    if table is None:
        return starting()
    return _inference(table, body)


def _method_not_allowed(method: str, path: str, right: str) -> Answer:
    refused = refuse(405, f"{path} takes {right}, not {method}", "method_not_allowed")
    return Answer(refused.status, refused.body, {"Allow": right})


def _models(table: RoutingTable) -> Answer:
    return Answer(200, {"object": "list", "data": [model_card(route) for route in table.routes if route.targets]})


def _model(table: RoutingTable, model_id: str) -> Answer:
    route = table.named(model_id)
    if route is None:
        return _unknown(model_id)
    return Answer(200, model_card(route)) if route.targets else unavailable(route)


def _inference(table: RoutingTable, body: bytes) -> Answer | Forward:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return refuse(400, "the body is not valid JSON", "invalid_json")
    if not isinstance(request, dict):
        return refuse(400, "the body is not a JSON object", "invalid_json")
    named = request.get("model")
    if named is None and len(table.routes) != 1:
        return refuse(400, "name a model in `model` (GET /v1/models lists them)", "model_required")
    if not isinstance(named, str | None):
        return refuse(400, "`model` is not a string", "invalid_model")
    route = table.routes[0] if named is None else table.named(named)
    if route is None:
        return _unknown(str(named))
    return Forward(route) if route.targets else unavailable(route)


def _unknown(model_id: str) -> Answer:
    return refuse(404, f"the model `{model_id[:200]}` does not exist (GET /v1/models)", "model_not_found")


def unavailable(route: Route) -> Answer:
    """Say why no replica answers under a name that exists."""
    why = route.unavailable
    return refuse(503, f"the model `{route.model_id}` {why.reason}", why.code, why.retry_after_s)
