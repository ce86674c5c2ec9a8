"""Who is asking: a bearer token on every address but the few that are open to all, checked before a body is read.

Closed by default: an address is open only by its name in `OPEN`. Identity headers that a client sends (`X-User-Id` and
the like) are never looked at.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Flask, g, request

from webapi.parts import Parts, parts
from webapi.problems import Forbidden, Unauthenticated

ADMIN = "admin"
"""Author of the commits that the admin asks for; no user may have this name."""

OPEN = frozenset(
    {
        "docs.document",
        "docs.index",
        "docs.page",
        "docs.static",
        "health.read_health",
        "health.read_readiness",
        "hooks.receive_push",
    }
)
"""Endpoints that need no token. A webhook proves otherwise who it is from (`hooks`)."""

_API = "/api/"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `user_id` is None for the admin, who owns no models."""

    user_id: str | None

    @property
    def is_admin(self) -> bool:
        """Say whether it is the admin."""
        return self.user_id is None

    @property
    def author(self) -> str:
        """The name under which commits are made."""
        return self.user_id or ADMIN

    def may_see(self, user_id: str) -> bool:
        """Say whether what belongs to `user_id` exists for this caller."""
        return self.user_id is None or self.user_id == user_id


def install(app: Flask) -> None:
    """Ask for a token before every request to `app` that is not open to all."""
    app.before_request(_authenticate)


def caller() -> Caller:
    """Give whoever sent the current request."""
    found: Caller = g.caller
    return found


def caller_name() -> str:
    """Name the current request's caller for the log: `-` where there is none (yet)."""
    found: Caller | None = g.get("caller")
    return found.author if found else "-"


def require_admin() -> None:
    """Refuse everybody but the admin. Raises Forbidden."""
    if not caller().is_admin:
        raise Forbidden("this is for the platform's admin; use the admin token")


def _authenticate() -> None:
    if request.endpoint in OPEN:
        return
    if request.endpoint is None and not request.path.startswith(_API):
        return  # there is nothing there, and that is no secret
    g.caller = _identify(parts())


def _identify(platform: Parts) -> Caller:
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("a token is needed: send the header 'Authorization: Bearer <token>'")
    if _is_same(token, platform.admin_token):
        return Caller(None)
    user_id = platform.accounts.authenticate(token, datetime.now(UTC))
    if user_id is None:
        raise Unauthenticated("this token is not known, has expired or was revoked; ask the admin for a new one")
    return Caller(user_id)


def _is_same(one: str, other: str) -> bool:
    """Compare in a time that tells neither the length nor the beginning of either."""
    digests = (hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in (one, other))
    return hmac.compare_digest(*digests)
