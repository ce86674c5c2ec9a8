"""Users and their tokens. A token is shown once and kept as a digest; nothing here can give it back."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine, insert, select, update

from reconciler.errors import ArgusError
from reconciler.names import USER_ID_RULE, is_user_id
from reconciler.shell.ledger.engine import insert_new, reading, writing
from reconciler.shell.ledger.schema import tokens, users

_TOKEN = re.compile(r"argus_([0-9a-f]{18})_[A-Za-z0-9_-]{43}")
_SECRET_BYTES = 32  # 43 characters of base64 without padding


class UnknownUser(ArgusError):
    """There is no such user. The message names the id that was given."""

    code = "not_found"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may have models."""

    user_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as it is shown once. Its text is no part of the value's repr."""

    token: str = field(repr=False)
    token_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What may be known of a token afterwards. `revoked_at` is None while it was not revoked."""

    token_id: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class Accounts:
    """Users and tokens in the ledger. Safe for threads and processes. Every method raises LedgerUnreachable.

    Times are timezone-aware and come from the caller; a time without a timezone is a ValueError.
    """

    def __init__(self, engine: Engine) -> None:
        """Keep accounts in the ledger at `engine` (`open_ledger`)."""
        self._engine = engine

    def create_user(self, user_id: str, now: datetime) -> bool:
        """Create a user. False where there is one of that id. Raises ValueError where the id breaks `USER_ID_RULE`."""
        if not is_user_id(user_id):
            raise ValueError(f"a user id is {USER_ID_RULE}")
        with writing(self._engine) as connection:
            return insert_new(connection, users, {"user_id": user_id, "created_at": now})

    def users(self, limit: int, after: str = "") -> list[User]:
        """Give at most `limit` users in the order of their ids, from the first beyond `after`."""
        statement = select(users).where(users.c.user_id > after).order_by(users.c.user_id).limit(limit)
        with reading(self._engine) as connection:
            return [User(row.user_id, row.created_at) for row in connection.execute(statement)]

    def exists(self, user_id: str) -> bool:
        """Say whether there is a user of that id."""
        with reading(self._engine) as connection:
            return connection.execute(select(users.c.user_id).where(users.c.user_id == user_id)).first() is not None

    def issue_token(self, user_id: str, now: datetime, ttl: timedelta) -> IssuedToken:
        """Make a token that is good from `now` for `ttl`. Raises UnknownUser."""
        # Seconds since 1970 and 32 random bits, so that a user's tokens sort by age and an id alone continues a page.
        token_id = f"{int(now.timestamp()):010x}{secrets.token_hex(4)}"
        token = f"argus_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        issued = IssuedToken(token, token_id, now + ttl)
        row = {
            "token_id": token_id,
            "user_id": user_id,
            "digest": _digest(token),
            "created_at": now,
            "expires_at": issued.expires_at,
        }
        with writing(self._engine) as connection:
            if connection.execute(select(users.c.user_id).where(users.c.user_id == user_id)).first() is None:
                raise UnknownUser(f"there is no user '{user_id:.80}'")
            connection.execute(insert(tokens).values(row))
        return issued

    def tokens(self, user_id: str, limit: int, after: str = "") -> list[TokenInfo]:
        """Give at most `limit` of a user's tokens, oldest first, from the first beyond the id `after`.

        Expired and revoked tokens are among them.
        """
        statement = (
            select(tokens.c.token_id, tokens.c.created_at, tokens.c.expires_at, tokens.c.revoked_at)
            .where(tokens.c.user_id == user_id, tokens.c.token_id > after)
            .order_by(tokens.c.token_id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [TokenInfo(*row) for row in connection.execute(statement)]

    def revoke_token(self, user_id: str, token_id: str, now: datetime) -> bool:
        """Make a token worthless from now on. False where the user has no such token.

        A token that was revoked before stays revoked since then, and the answer is True again.
        """
        mine = (tokens.c.user_id == user_id, tokens.c.token_id == token_id)
        with writing(self._engine) as connection:
            if connection.execute(select(tokens.c.token_id).where(*mine)).first() is None:
                return False
            connection.execute(update(tokens).where(*mine, tokens.c.revoked_at.is_(None)).values(revoked_at=now))
        return True

    def authenticate(self, token: str, now: datetime) -> str | None:
        """Say whose token it is. None for one that is malformed, unknown, expired or revoked.

        One look-up by primary key, and none for what cannot be a token, however long it is.
        """
        form = _TOKEN.fullmatch(token)
        if form is None:
            return None
        statement = select(tokens.c.user_id, tokens.c.digest, tokens.c.expires_at, tokens.c.revoked_at)
        with reading(self._engine) as connection:
            found = connection.execute(statement.where(tokens.c.token_id == form[1])).first()
        if found is None or not hmac.compare_digest(found.digest, _digest(token)):
            return None
        if found.revoked_at is not None or now >= found.expires_at:
            return None
        user_id: str = found.user_id
        return user_id


def _digest(token: str) -> bytes:
    """Fingerprint of a token. A plain hash does: 256 random bits cannot be tried out, unlike a password."""
    return hashlib.sha256(token.encode()).digest()
