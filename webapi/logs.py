"""What a model's engines print, as it stands in the ledger: the last lines, and further ones as they come.

One follower holds one of this process's threads, so there are few at a time (`api.log_followers`), none stays longer
than `api.log_follow_s`, and one whose client has gone ends within a second where the system says so, else at the next
sign of life.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, request

from reconciler.core.entities import State
from reconciler.core.log_lines import Line
from reconciler.core.times import iso
from reconciler.errors import LedgerUnreachable
from webapi import model_schemas, openapi, reading
from webapi.auth import caller
from webapi.parts import Parts, parts
from webapi.problems import Busy, NotFound

log = logging.getLogger(__name__)

logs = openapi.blueprint("logs", prefix=f"{openapi.PREFIX}/serve", about="What the engines print.")

TEXT, LINES = "text/plain", "application/x-ndjson"

LOOK_S = 1.0
"""How often the ledger is asked for further lines. They come into it once a second."""

STATE_S = 5.0
"""How often it is asked whether the model is still there."""

SIGN_OF_LIFE_S = 15.0

WRITE_LIMIT_S = 30

MOST_AT_ONCE = 500
_SLOTS = "argus-log-followers"
_STOPPING = "argus-stopping"

_TEXT_EXAMPLE = (
    "2026-01-06T12:31:07Z x8k2jd0a INFO 01-06 12:31:07 [gpu_model_runner.py:1052] Loading weights took 2.1 s\n"
)
_ANSWER: dict[str, Any] = {
    "description": "Lines, oldest first. Empty lines are signs of life while following.",
    "content": {
        TEXT: {"schema": {"type": "string"}, "example": _TEXT_EXAMPLE},
        LINES: {
            "schema": {"type": "string", "description": "One JSON object a line: number, time, replica, text."},
            "example": '{"number":1,"time":"2026-01-06T12:31:07Z","replica":"x8k2jd0a","text":"Loading weights"}\n',
        },
    },
}


def install(app: Flask, followers: int) -> None:
    """Let so many clients at a time follow logs in this process."""
    app.extensions[_SLOTS] = threading.BoundedSemaphore(followers)


def end_when(app: Flask, is_stopping: Callable[[], bool]) -> None:
    """End what follows once the process is told to stop, so that nobody has to wait for it."""
    app.extensions[_STOPPING] = is_stopping


@logs.get(
    "/models/<model_key>/logs",
    summary="Show what a model's engines print",
    responses={
        **openapi.answers(HTTPStatus.OK, None, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
        HTTPStatus.OK: _ANSWER,
    },
)
def read_logs(path: model_schemas.ModelPath, query: model_schemas.LogsQuery) -> Response:
    """Show the newest lines of all replicas of a model, also of those that failed or are gone.

    With `follow` further lines follow as they come, until the model is DELETED or the platform's time limit for one
    request is reached: then ask again with `after`. Plain text, or JSON lines by `format` or the Accept header.
    """
    platform = parts()
    model = reading.one_model(platform, path.model_key)
    if model is None or not caller().may_see(model.identity.user_id):
        raise NotFound("there is no such model among yours")
    write, mimetype = (_as_json, LINES) if _wants_json_lines(query) else (_as_text, TEXT)
    if query.after is None:
        newest = platform.engine_log.tail(path.model_key, max(query.tail, 1))
        number, first = newest[-1].number if newest else 0, newest if query.tail else []
    else:
        number, first = query.after, platform.engine_log.after(path.model_key, query.after, query.tail)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"}
    if not query.follow:
        return Response("".join(map(write, first)), mimetype=mimetype, headers=headers)
    slots: threading.BoundedSemaphore = current_app.extensions[_SLOTS]
    if not slots.acquire(blocking=False):
        raise Busy("as many clients as this process allows are following logs already; try again")
    stopping: Callable[[], bool] = current_app.extensions.get(_STOPPING, bool)
    lines = _follow(platform, path.model_key, first, number, is_gone=_is_gone(request.environ), is_stopping=stopping)
    response = Response(("".join(map(write, some)) or "\n" for some in lines), mimetype=mimetype, headers=headers)
    response.call_on_close(slots.release)
    return response


def _follow(
    platform: Parts,
    model_key: str,
    first: list[Line],
    number: int,
    *,
    is_gone: Callable[[], bool],
    is_stopping: Callable[[], bool],
) -> Iterator[list[Line]]:
    """Give lines as they come, and an empty list as a sign of life."""
    began = last_said = time.monotonic()
    next_look_at_state = began
    yield first  # at once, if it is empty: whoever waits sees that it works
    number = first[-1].number if first else number
    pause = threading.Event()
    is_deleted = False
    while not is_gone() and not is_stopping():
        now = time.monotonic()
        if now - began >= platform.settings.api.log_follow_s:
            return
        try:
            if now >= next_look_at_state:
                is_deleted = _is_deleted(platform, model_key)
                next_look_at_state = now + STATE_S
            lines = platform.engine_log.after(model_key, number, MOST_AT_ONCE)
        except LedgerUnreachable as error:
            log.info("a log cannot be followed for a moment: %s", error)
            lines = []
        if lines:
            number, last_said = lines[-1].number, now
            yield lines
            if len(lines) == MOST_AT_ONCE:
                continue
        elif is_deleted:
            return
        elif now - last_said >= SIGN_OF_LIFE_S:
            last_said = now
            yield []
        pause.wait(min(LOOK_S, platform.settings.api.log_follow_s))


def _is_deleted(platform: Parts, model_key: str) -> bool:
    record = platform.reader.model(model_key)
    return record is not None and record.state is State.DELETED


def _wants_json_lines(query: model_schemas.LogsQuery) -> bool:
    if query.format is not None:
        return query.format == "ndjson"
    return request.accept_mimetypes.best_match([TEXT, LINES], TEXT) == LINES


def _as_text(line: Line) -> str:
    return f"{_seconds(line)} {line.replica} {line.text}\n"


def _as_json(line: Line) -> str:
    said = {"number": line.number, "time": iso(line.time), "replica": line.replica, "text": line.text}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")) + "\n"


def _seconds(line: Line) -> str:
    return iso(line.time.replace(microsecond=0))


def _is_gone(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Give what says whether the client has closed its connection: gunicorn shows the socket, others do not."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return bool
    # A client that is there and does not read would hold a thread for as long as it likes.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", WRITE_LIMIT_S, 0))

    def is_gone() -> bool:
        try:
            readable, _, _ = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
        except ValueError:
            return False  # a socket that cannot be looked into (TLS)
        except OSError:
            return True

    return is_gone
