"""What goes over the wire for users and their tokens."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from reconciler.names import USER_ID_PATTERN, USER_ID_RULE
from webapi.schemas import Answer, Body, UtcTime


class NewUser(Body):
    """A user to be created."""

    model_config = ConfigDict(json_schema_extra={"example": {"user_id": "alice"}})

    # The rule is more than its pattern; `users` checks it whole, and says it in words.
    user_id: str = Field(
        description=USER_ID_RULE, json_schema_extra={"pattern": USER_ID_PATTERN, "examples": ["alice"]}
    )


class UserView(Answer):
    """A user. `created_at` is null for one whom only the repository knows so far."""

    user_id: str
    created_at: UtcTime | None


class UserList(Answer):
    """One page of users, by id."""

    items: list[UserView]
    next_cursor: str | None


class IssuedTokenView(Answer):
    """A new token. It is shown this once."""

    token: str
    token_id: str
    expires_at: UtcTime


class TokenView(Answer):
    """What can still be known of a token."""

    token_id: str
    created_at: UtcTime
    expires_at: UtcTime
    revoked_at: UtcTime | None


class TokenList(Answer):
    """One page of a user's tokens, oldest first, expired and revoked ones among them."""

    items: list[TokenView]
    next_cursor: str | None


class UserPath(BaseModel):
    """One user."""

    user_id: str


class TokenPath(UserPath):
    """One of a user's tokens."""

    token_id: str
