"""Webhooks in: a git host tells that somebody pushed, and the reconciler looks at once and not at its next interval.

A delivery is a hint and nothing more. What is on the branch is read from git, so the worst that a repeated one could do
is a look too many; a lost one costs an interval (`reconcile.interval_s`). Nothing is fetched here: the answer comes as
fast with ten thousand models as with none.

Whoever cannot prove that they know a secret (`proofs`) costs little: who offers nothing is answered before the body is
read, few bodies are read at a time, each within `READ_LIMIT_S`, and who fails too often is refused before that.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qs

from flask import Flask, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from webapi import hook_schemas, openapi
from webapi.nudging import Nudger
from webapi.parts import Parts, parts
from webapi.problems import Busy, NotFound, RequestProblem, Unauthenticated
from webapi.proofs import Proof, Secrets, SecretsUnreadable

log = logging.getLogger(__name__)

READ_LIMIT_S = 10.0
"""How long a body may take to come in, in seconds: GitHub gives up after 10, GitLab after 10."""

NUDGE_PATIENCE_S = 0.5
"""How long an answer waits for the ledger, in seconds. A ledger that is slower is told all the same, a little later."""

KEPT_BYTES = 1024 * 1024
"""What is kept of a body. In a longer one nobody looks for the branch: it counts as news of ours."""

FAILURES, FAILURES_PER_S = 60, 2.0
"""So many deliveries without proof are looked at in a row, and so many a second for ever, in each process."""

_CHUNK = 64 * 1024
_NAME = "argus-hooks"
_EVENTS = ("X-GitHub-Event", "X-Gitlab-Event", "X-Forgejo-Event", "X-Gitea-Event")

hooks = openapi.blueprint(
    "hooks",
    prefix=f"{openapi.PREFIX}/hooks",
    about="What git hosts call when somebody pushes.",
    security=[{name: []} for name in openapi.HOOK_SECURITY],
)


class Unproven(Unauthenticated):
    """401: a delivery whose sender has not proved that it knows a secret."""

    headers = {"WWW-Authenticate": 'Webhook realm="argus"'}  # noqa: RUF012  read only, as in the base

    def __init__(self) -> None:
        super().__init__(
            "this delivery proves no secret that is known here; give the sender the secret that Argus was given "
            "(api.hooks), and have it sign with HMAC-SHA256"
        )


class TooManyFailures(RequestProblem):
    """429: deliveries that prove nothing came too often."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_requests"
    headers = {"Retry-After": "5"}  # noqa: RUF012  read only, as in the base


class TooSlow(RequestProblem):
    """408: the body did not come in, in time or at all."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request_timeout"


@dataclass(slots=True)
class Allowance:
    """How many failures there may still be: `most` in a row, and `per_s` in the long run. Safe for threads."""

    most: float
    per_s: float
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin with all of them."""
        self._left, self._at = self.most, self.clock()

    def is_used_up(self) -> bool:
        """Say whether there may be none now."""
        with self._lock:
            self._refill()
            return self._left < 1

    def use(self) -> None:
        """Count one."""
        with self._lock:
            self._refill()
            self._left = max(0.0, self._left - 1)

    def _refill(self) -> None:
        now = self.clock()
        self._left, self._at = min(self.most, self._left + (now - self._at) * self.per_s), now


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where deliveries of one process come in."""

    secrets: Secrets
    nudger: Nudger
    readers: threading.Semaphore
    failures: Allowance
    read_limit_s: float = READ_LIMIT_S


def install(app: Flask, platform: Parts) -> None:
    """Prepare `app` for deliveries. At most half of its threads read bodies at a time: the others answer."""
    settings = platform.settings
    app.extensions[_NAME] = _Desk(
        secrets=Secrets.from_settings(settings),
        nudger=Nudger(platform.nudge),
        readers=threading.Semaphore(max(1, settings.api.threads // 2)),
        failures=Allowance(FAILURES, FAILURES_PER_S),
    )


@hooks.post(
    "/git",
    summary="Say that somebody pushed",
    openapi_extensions=openapi.any_body(
        "What the host sends, as JSON or as a form with the JSON in `payload`; at most `api.hooks.max_body_bytes`."
    ),
    responses=openapi.answers(
        HTTPStatus.ACCEPTED,
        hook_schemas.HookTaken,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_REQUEST,
    ),
)
def receive_push() -> tuple[dict[str, Any], int]:
    """Have the reconciler look at the branch at once.

    For webhooks of GitHub, GitLab, Gitea and Forgejo, and for any sender that signs the body: the hexadecimal
    HMAC-SHA256 of it in `X-Hub-Signature-256: sha256=…`, or the three headers of Standard Webhooks. What the body says
    counts only as far as a push to another branch is left alone.
    """
    desk: _Desk = current_app.extensions[_NAME]
    body = _proved(desk)
    status = _meaning(request.headers, request.mimetype, body, parts().settings.spec_repo.branch)
    if status == "taken":
        parts().store.expect_news()
        desk.nudger.ask(NUDGE_PATIENCE_S)
    return hook_schemas.HookTaken(status=status).model_dump(), HTTPStatus.ACCEPTED


def _proved(desk: _Desk) -> bytes | None:
    """Give the body of a delivery that is what it claims to be; None for one that is too long to be looked into."""
    if not desk.secrets.are_configured:
        raise NotFound("webhooks are not set up here: give api.hooks.secret_files, or ARGUS_HOOK_SECRETS")
    if desk.failures.is_used_up():
        raise TooManyFailures("too many deliveries proved nothing; try again later")
    try:
        secrets = desk.secrets.read()
    except SecretsUnreadable as error:
        log.warning("no webhook is taken: %s", error)
        raise Busy("the secrets of webhooks cannot be read; the API's log says why") from None
    proof = Proof(request.headers, secrets, time.time())
    if proof.is_offered:
        body = _read(desk, proof)
        if proof.holds():
            return body
    desk.failures.use()
    raise Unproven


def _read(desk: _Desk, proof: Proof) -> bytes | None:
    """Pass the body through the proof. Raises RequestProblem, RequestEntityTooLarge."""
    if not desk.readers.acquire(blocking=False):
        raise Busy("too many deliveries are being read; try again")
    most = parts().settings.api.hooks.max_body_bytes
    request.max_content_length = most + 1
    try:
        if request.content_length is not None and request.content_length > most:
            raise RequestEntityTooLarge
        with _at_most(desk.read_limit_s):
            return _streamed(proof, most)
    except (ClientDisconnected, OSError):
        desk.failures.use()
        raise TooSlow(f"the body must come in whole, within {desk.read_limit_s:g} s") from None
    finally:
        desk.readers.release()


def _streamed(proof: Proof, most: int) -> bytes | None:
    kept, total = bytearray(), 0
    while part := request.stream.read(_CHUNK):
        total += len(part)
        if total > most:
            raise RequestEntityTooLarge
        proof.update(part)
        kept += part[: max(0, KEPT_BYTES - len(kept))]
    return bytes(kept) if total == len(kept) else None


@contextmanager
def _at_most(limit_s: float) -> Iterator[None]:
    """Let nothing more come in from the client after `limit_s`.

    Gunicorn itself waits for ever, a byte at a time where the client likes it so.
    """
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:
        yield
        return
    watchdog = threading.Timer(limit_s, _cut, (connection,))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # the answer still goes out


def _meaning(headers: Headers, mimetype: str, body: bytes | None, branch: str) -> Literal["taken", "ignored", "pong"]:
    """Say what a proved delivery is: news, of another branch, or a trial. What is not understood is news."""
    event = next((headers[name] for name in _EVENTS if name in headers), "")
    if event.lower() == "ping":
        return "pong"
    ref = _ref(mimetype, body) if body is not None else None
    return "ignored" if ref is not None and ref.startswith("refs/") and ref != f"refs/heads/{branch}" else "taken"


def _ref(mimetype: str, body: bytes) -> str | None:
    """Give the ref that the body says was pushed to; None where it says none, or nothing that is understood."""
    try:
        if mimetype == "application/x-www-form-urlencoded":
            body = parse_qs(body, max_num_fields=8)[b"payload"][0]
        ref = json.loads(body)["ref"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return ref if isinstance(ref, str) else None
