"""What goes wrong, as the client sees it: one table from exception to HTTP status, one form of body for all of them.

The body is `{"error": {"code", "message", "details"}}`. `code` is for machines and stable, `message` for people, and
`details` holds what else is known (the field of a spec, its line). Nothing here repeats what a client sent.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from reconciler.errors import ArgusError, Moved, Unreachable
from reconciler.spec import Problem, SpecRejected
from reconciler.yamlsafe import dotted, shown
from webapi.spec_reader import FileDamagedError
from webapi.store import NotAFileError, Overtaken

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
"""What a client is told to wait, in seconds, when something behind the API does not answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One problem in the terms of HTTP."""

    status: HTTPStatus
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class RequestProblem(ArgusError):
    """Something is wrong with one request. Subclasses say what, by status and code.

    Args:
        message: What was wrong and what would be right.
        details: What else a machine may want to know, under stable keys.
    """

    status = HTTPStatus.BAD_REQUEST
    code = "invalid_request"
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    def answer(self) -> Answer:
        """Give the problem in the terms of HTTP."""
        return Answer(self.status, self.code, str(self), self.details, self.headers)


class Invalid(RequestProblem):
    """400: a body, a parameter or a name that is not what it should be."""


class Unauthenticated(RequestProblem):
    """401: no token, or one that is not known (any more)."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthenticated"
    headers = {"WWW-Authenticate": 'Bearer realm="argus"'}  # noqa: RUF012  read only, as in the base


class Forbidden(RequestProblem):
    """403: the caller is known and may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(RequestProblem):
    """404: there is no such thing, or it is somebody else's."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class Conflict(RequestProblem):
    """409: what is there already does not go with what was asked for."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class PreconditionFailed(RequestProblem):
    """412: `If-Match` names another content than the one that the model's file has now."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"

    def __init__(self, current: str | None) -> None:
        super().__init__(
            "the model's file is not the one that If-Match names; look at it, and send the ETag that it has now"
            if current is not None
            else "If-Match is for a model that is there; leave it out to create one",
            current=current,
        )
        self.headers = {} if current is None else {"ETag": f'"{current}"'}


class HeadMoved(RequestProblem):
    """412: the branch is not where the caller saw it."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"

    def __init__(self, current: str | None) -> None:
        super().__init__("the branch has moved since; look at what is there now, and try again", current=current)


class Unprocessable(RequestProblem):
    """422: understood, and still nothing that can be done."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "unprocessable"


class UnsupportedMediaType(RequestProblem):
    """415: the body's Content-Type is not one that is read."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class Busy(RequestProblem):
    """503: as much of this is going on as this process allows. It is no fault of the request's."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "busy"
    headers = {"Retry-After": "10"}  # noqa: RUF012  read only, as in the base


class SpecRefused(RequestProblem):
    """400, 403 or 422: the spec in the body cannot be accepted, and why."""

    def __init__(self, rejected: SpecRejected) -> None:
        where = {"field": rejected.field, "line": rejected.line, "column": rejected.column}
        super().__init__(rejected.message, **{key: value for key, value in where.items() if value is not None})
        self.status, self.code = _SPEC_PROBLEMS[rejected.problem]


_SPEC_PROBLEMS = {
    Problem.INVALID: (HTTPStatus.BAD_REQUEST, "invalid_spec"),
    Problem.FORBIDDEN: (HTTPStatus.FORBIDDEN, "forbidden"),
    Problem.UNPROCESSABLE: (HTTPStatus.UNPROCESSABLE_ENTITY, "unprocessable"),
}

_HTTP_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}

_HTTP_MESSAGES = {
    404: "there is nothing at this address; /openapi.json lists what there is",
    405: "this address does not take this method; the Allow header lists those that it takes",
    413: "the body is larger than this server takes",
}


def _invalid(error: ValidationError) -> Answer:
    """Name each field, what is wrong with it and what was given: at most 80 characters of a scalar, never more."""
    fields = []
    for each in error.errors(include_url=False, include_context=False):
        given = "" if each["type"] in {"missing", "extra_forbidden"} else f", not {shown(each['input'])}"
        reason = "is not known here; remove it" if each["type"] == "extra_forbidden" else f"{each['msg']}{given}"
        fields.append({"field": dotted(each["loc"]) or "body", "message": reason})
    message = "; ".join(f"{each['field']}: {each['message']}" for each in fields)
    return Answer(HTTPStatus.BAD_REQUEST, "invalid_request", message, {"fields": fields})


def _not_a_file(error: NotAFileError) -> Answer:
    return Answer(HTTPStatus.CONFLICT, error.code, str(error))


def _file_damaged(error: FileDamagedError) -> Answer:
    return Answer(HTTPStatus.CONFLICT, error.code, str(error), {"path": error.path, "object": error.blob})


def _overtaken(error: Overtaken) -> Answer:
    return Answer(HTTPStatus.CONFLICT, error.code, str(error), {"base": error.base, "current": error.current})


def _later(error: ArgusError) -> Answer:
    log.warning("%s: %s", error.code, error)
    message = {
        "source_unreachable": "the spec repository does not answer; try again",
        "branch_in_doubt": "the branch was rewritten, and nobody who may write everywhere stands for that; an admin's "
        "commit on top of it, or the old branch, puts that right",
        "ledger_unreachable": "the ledger does not answer; try again",
        "moved": "others wrote at the same time, too often in a row; try again",
    }.get(error.code, "something behind the API does not answer; try again")
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, error.code, message, headers=headers)


def _http(error: HTTPException) -> Answer:
    number = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    kept = {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
    status = HTTPStatus(number)
    message = _HTTP_MESSAGES.get(number, status.phrase.lower())
    return Answer(status, _HTTP_CODES.get(number, status.name.lower()), message, headers=kept)


def _unexpected(error: Exception) -> Answer:
    """Keep the traceback in the log, under an id that the client can name."""
    error_id = uuid.uuid4().hex[:12]
    rule = request.url_rule.rule if request.url_rule else "-"
    log.error("error %s in %s %s", error_id, request.method, rule, exc_info=error)
    message = f"an error inside the API; its log has the details under id {error_id}"
    return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message, {"error_id": error_id})


# The first line that fits counts, so a base class comes after its subclasses.
_TABLE: tuple[tuple[type[Exception], Callable[[Any], Answer]], ...] = (
    (RequestProblem, RequestProblem.answer),
    (NotAFileError, _not_a_file),
    (FileDamagedError, _file_damaged),
    (Overtaken, _overtaken),
    (ValidationError, _invalid),
    (Moved, _later),
    (Unreachable, _later),
    (HTTPException, _http),
    (Exception, _unexpected),
)


def answer_to(error: Exception) -> Answer:
    """Say what a client is told of `error`."""
    return next(answer(error) for kind, answer in _TABLE if isinstance(error, kind))


def install(app: Flask) -> None:
    """Make every error of `app` answer in the one form, those of Flask's own routing among them."""
    app.register_error_handler(Exception, _respond)


def _respond(error: Exception) -> Response:
    told = answer_to(error)
    body = {"error": {"code": told.code, "message": told.message, "details": dict(told.details)}}
    response = jsonify(body)
    response.status_code = told.status
    response.headers.update(dict(told.headers))
    return response
