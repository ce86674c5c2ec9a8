"""Users and their tokens. All of it is the admin's.

A user is a folder `users/<user_id>/` in git, and a row in the ledger that tokens belong to. Git comes first: the
reconciler makes a row of every folder, so that a crash between the two leaves nothing that has to be put right.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from reconciler.names import USER_ID_RULE, USERS_FOLDER, is_user_id
from reconciler.yamlsafe import shown
from webapi import openapi, paging, schemas, user_schemas
from webapi.auth import ADMIN, caller, require_admin
from webapi.bodies import read_json
from webapi.parts import Parts, parts
from webapi.problems import Conflict, Invalid, NotFound

users = openapi.blueprint("users", prefix=openapi.PREFIX, about="Users and their tokens. For the admin.")

_FORBIDDEN, _INVALID, _ABSENT = HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND
_BODY = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


@users.post(
    "/users",
    summary="Create a user",
    openapi_extensions=openapi.json_body(user_schemas.NewUser),
    responses=openapi.answers(
        HTTPStatus.CREATED, user_schemas.UserView, _FORBIDDEN, _INVALID, HTTPStatus.CONFLICT, *_BODY
    ),
)
def create_user() -> tuple[dict[str, Any], int]:
    """Create a user: a folder in git, committed by `admin`. 409 where the ledger or git has that user already."""
    require_admin()
    user_id = read_json(user_schemas.NewUser).user_id
    if not is_user_id(user_id):
        raise Invalid(f"user_id must be {USER_ID_RULE}, not {shown(user_id)}", field="user_id")
    platform = parts()
    if user_id == ADMIN or _exists(platform, user_id):
        raise _taken(user_id)
    now = datetime.now(UTC)
    platform.store.write(
        f"{USERS_FOLDER}/{user_id}/.gitkeep",
        lambda before: _new_file(user_id, before),
        author=caller().author,
        subject=f"Create user {user_id}",
    )
    platform.accounts.create_user(user_id, now)
    platform.nudge()
    return user_schemas.UserView(user_id=user_id, created_at=now).model_dump(mode="json"), HTTPStatus.CREATED


@users.get(
    "/users",
    summary="List users",
    responses=openapi.answers(HTTPStatus.OK, user_schemas.UserList, _FORBIDDEN, _INVALID),
)
def list_users(query: schemas.PageQuery) -> dict[str, Any]:
    """List users by id: those of the ledger, and those whom so far only git knows."""
    require_admin()
    platform = parts()
    last = "".join(paging.after(query.cursor)[:1])
    known = platform.accounts.users(query.limit + 1, last)
    found = {user.user_id: user_schemas.UserView(user_id=user.user_id, created_at=user.created_at) for user in known}
    # Beyond the last one that the ledger gave, there may be more of its users than were asked for.
    horizon = known[-1].user_id if len(known) > query.limit else None
    for user_id in platform.store.read().users - found.keys():
        if horizon is None or user_id <= horizon:
            found[user_id] = user_schemas.UserView(user_id=user_id, created_at=None)
    page = paging.page(found.values(), lambda user: (user.user_id,), limit=query.limit, cursor=query.cursor)
    return user_schemas.UserList(items=list(page.items), next_cursor=page.next_cursor).model_dump(mode="json")


@users.post(
    "/users/<user_id>/tokens",
    summary="Issue a token",
    responses=openapi.answers(HTTPStatus.CREATED, user_schemas.IssuedTokenView, _FORBIDDEN, _ABSENT),
)
def issue_token(path: user_schemas.UserPath) -> tuple[dict[str, Any], int]:
    """Issue a token for a user. It is shown once; only its digest is kept."""
    require_admin()
    platform = parts()
    require_user(platform, path.user_id)
    now = datetime.now(UTC)
    platform.accounts.create_user(path.user_id, now)  # a user whom so far only git knows
    issued = platform.accounts.issue_token(path.user_id, now, timedelta(days=platform.settings.api.token_ttl_days))
    view = user_schemas.IssuedTokenView(token=issued.token, token_id=issued.token_id, expires_at=issued.expires_at)
    return view.model_dump(mode="json"), HTTPStatus.CREATED


@users.get(
    "/users/<user_id>/tokens",
    summary="List a user's tokens",
    responses=openapi.answers(HTTPStatus.OK, user_schemas.TokenList, _FORBIDDEN, _INVALID, _ABSENT),
)
def list_tokens(path: user_schemas.UserPath, query: schemas.PageQuery) -> dict[str, Any]:
    """List what can still be known of a user's tokens, oldest first."""
    require_admin()
    platform = parts()
    require_user(platform, path.user_id)
    last = "".join(paging.after(query.cursor)[:1])
    found = [
        user_schemas.TokenView(
            token_id=token.token_id,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
        )
        for token in platform.accounts.tokens(path.user_id, query.limit + 1, last)
    ]
    page = paging.page(found, lambda token: (token.token_id,), limit=query.limit, cursor=query.cursor)
    return user_schemas.TokenList(items=list(page.items), next_cursor=page.next_cursor).model_dump(mode="json")


@users.delete(
    "/users/<user_id>/tokens/<token_id>",
    summary="Revoke a token",
    responses=openapi.answers(HTTPStatus.NO_CONTENT, None, _FORBIDDEN, _ABSENT),
)
def revoke_token(path: user_schemas.TokenPath) -> tuple[str, int]:
    """Make a token worthless from now on. Revoking it again is no error."""
    require_admin()
    named = is_user_id(path.user_id) and path.token_id.isascii() and path.token_id.isalnum()
    if not named or not parts().accounts.revoke_token(path.user_id, path.token_id, datetime.now(UTC)):
        raise NotFound("the user has no such token")
    return "", HTTPStatus.NO_CONTENT


def require_user(platform: Parts, user_id: str) -> None:
    """Refuse a user id that neither the ledger nor git knows. Raises NotFound."""
    if not is_user_id(user_id) or not _exists(platform, user_id):
        raise NotFound("there is no such user; POST /api/v2/users creates one")


def _exists(platform: Parts, user_id: str) -> bool:
    return platform.accounts.exists(user_id) or user_id in platform.store.read().users


def _new_file(user_id: str, before: bytes | None) -> bytes:
    if before is not None:
        raise _taken(user_id)
    return b""


def _taken(user_id: str) -> Conflict:
    if user_id == ADMIN:
        return Conflict(f"'{ADMIN}' is what the platform's admin is called; choose another user_id", field="user_id")
    return Conflict(f"the user '{user_id}' exists already", field="user_id")
