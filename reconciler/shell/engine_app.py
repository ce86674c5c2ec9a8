"""vLLM's own HTTP app, made fit for requests that strangers wrote.

A request that does not fit its model is told every way in which every element of it does not, each with a copy of
what was sent: 30 kB to `/v1/responses` give an answer of 1 GB and an engine that is out of memory. Here reading stops
at the first element that does not fit, and the answer names a few errors and repeats nothing.

Sent to the cluster by value, like `engine`. It knows FastAPI and pydantic as vLLM uses them, and no engine.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import SchemaValidator
from starlette.exceptions import HTTPException

from reconciler.core.answers import refuse
from reconciler.core.wire import INFERENCE

log = logging.getLogger(__name__)

TOLD_ERRORS = 3
TOLD_CHARACTERS = 300
"""How much is told of a request that does not fit: so many errors, and so much of each."""

_MANY = frozenset({"list", "tuple", "set", "frozenset", "dict"})
_AS_THEY_ARE = frozenset({"cls", "default", "expected", "metadata", "serialization"})


def fit(app: FastAPI) -> None:
    """Change vLLM's app in place, before its first request.

    Bodies are read up to the first element that does not fit, refusals are short and in OpenAI's form, and no figures
    are kept that nobody can read: `/metrics` is not a path that users reach.
    """
    for route in app.routes:
        if getattr(route, "path", None) in INFERENCE:
            for field in route.dependant.body_params:  # type: ignore[attr-defined]  # what has a body is an APIRoute
                _stop_early(field._type_adapter)
    app.exception_handlers[RequestValidationError] = _does_not_fit
    app.exception_handlers[HTTPException] = _refused
    app.user_middleware = [
        middleware
        for middleware in app.user_middleware
        if getattr(middleware.cls, "__name__", "") != "PrometheusInstrumentatorMiddleware"
    ]
    app.middleware_stack = None  # vLLM has it built already; it is built anew at the first request


def _stop_early(adapter: Any) -> None:
    """Have a pydantic adapter stop at the first element of a list or dict that does not fit.

    What fits is read as before. Without `_use_prebuilt` the models inside would keep readers of their own.
    """
    try:
        adapter.validator = SchemaValidator(_fail_fast(adapter.core_schema, {}), _use_prebuilt=False)
    except Exception:
        log.exception("requests are read to their end: this version of pydantic cannot be told to stop early")


def _fail_fast(node: Any, done: dict[int, Any]) -> Any:
    """Give a core schema anew, with `fail_fast` wherever it knows that."""
    if isinstance(node, dict):
        if id(node) not in done:
            done[id(node)] = copy = {}
            for key, value in node.items():
                copy[key] = value if key in _AS_THEY_ARE else _fail_fast(value, done)
            kind = node.get("type")
            if isinstance(kind, str) and kind in _MANY:
                copy["fail_fast"] = True
        return done[id(node)]
    if isinstance(node, (list, tuple)):
        return type(node)(_fail_fast(value, done) for value in node)
    return node


async def _does_not_fit(_request: Request, error: Exception) -> JSONResponse:
    errors = error.errors() if isinstance(error, RequestValidationError) else ()
    told = list(itertools.islice(dict.fromkeys(_told(each) for each in errors), TOLD_ERRORS))
    return _json(400, "; ".join(told) or "the request is not valid", "invalid_request")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """Answer what the router refuses itself: a path that engines of this kind do not serve."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return _json(404, f"the model does not serve {request.url.path}: it is of another kind", "not_supported")
    return _json(status, str(getattr(error, "detail", ""))[:TOLD_CHARACTERS], None)


def _json(status: int, message: str, code: str | None) -> JSONResponse:
    refused = refuse(status, message, code)
    return JSONResponse(refused.body, refused.status)


def _told(error: object) -> str:
    """Say one error of pydantic's in a line, without what was sent."""
    if not isinstance(error, Mapping):
        return str(error)[:TOLD_CHARACTERS]
    where = ".".join(_place(error.get("loc", ())))
    return f"{where}: {error.get('msg', '')}"[:TOLD_CHARACTERS]


def _place(loc: Iterable[Any]) -> Iterable[str]:
    """Give an error's place as a user wrote it: pydantic puts the names of the types that it tried in between."""
    return (str(step) for step in loc if isinstance(step, int) or (str(step).isidentifier() and step != "body"))
