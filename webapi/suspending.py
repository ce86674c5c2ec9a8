"""Suspending and resuming: `argus.yaml` changed in place, one commit a request. Comments and order are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from reconciler import rules, yamlsafe
from reconciler.core.entities import Identity
from reconciler.core.holds import NO_RULES
from reconciler.names import RULES_FILE, is_user_id
from reconciler.rules import RulesRefused, model_name
from reconciler.yamlsafe import quoted
from webapi import hold_schemas, openapi, reading
from webapi.auth import caller, require_admin
from webapi.bodies import read_json
from webapi.parts import Parts, parts
from webapi.patching import patched
from webapi.problems import Conflict, Forbidden, Invalid, NotFound
from webapi.yamltext import Unpatchable

suspending = openapi.blueprint(
    "suspending", prefix=f"{openapi.PREFIX}/serve", about="Who is left as he is, whatever changes in git."
)

Target: TypeAlias = tuple[Literal["all", "users", "models"], tuple[str, ...]]
"""Where in the file, and the names that it may have there: the first is the one that is written."""

_ANSWERS = openapi.answers(
    HTTPStatus.ACCEPTED,
    hold_schemas.HoldWritten,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


@suspending.post(
    "/suspend",
    summary="Suspend a model, a user's models or all",
    openapi_extensions=openapi.json_body(hold_schemas.Suspended),
    responses=_ANSWERS,
)
def suspend_models() -> tuple[dict[str, Any], int]:
    """Have changes not count until they are resumed. What runs goes on; users may suspend what is theirs."""
    asked = read_json(hold_schemas.Suspended)
    target = _target(parts(), asked)
    reason = asked.reason or f"suspended by {caller().author}"
    if not reason.isprintable():
        raise Invalid("reason: right would be one line of printable text", field="reason")
    return _write(target, f"Suspend {_name(target)}", lambda before: with_entry(before, target, reason))


@suspending.post(
    "/resume",
    summary="Resume a model, a user's models or all",
    openapi_extensions=openapi.json_body(hold_schemas.Suspended),
    responses=_ANSWERS,
)
def resume_models() -> tuple[dict[str, Any], int]:
    """Have changes count again, those that came meanwhile among them."""
    target = _target(parts(), read_json(hold_schemas.Suspended))
    return _write(target, f"Resume {_name(target)}", lambda before: without_entry(before, target))


def with_entry(before: bytes | None, target: Target, reason: str) -> bytes:
    """Give the file with one entry more. Raises Conflict where the file cannot be changed in place."""
    kind, (name, *_) = target
    text = _readable(before)
    if rules.parse(text.encode()) == NO_RULES and not _data(text):
        end = "" if not text or text.endswith("\n") else "\n"
        entry = (
            f"  all: {_quoted(reason)}\n" if kind == "all" else f"  {kind}:\n    {_quoted(name)}: {_quoted(reason)}\n"
        )
        return _checked(f"{text}{end}suspend:\n{entry}".encode())
    if kind == "all":
        return _patched(text, {"suspend": {"all": reason}})
    present = _entries(text, kind)
    names = _spellings(present, target)
    if names:
        return text.encode()  # it is suspended already, with the reason that somebody gave
    return _patched(text, {"suspend": {kind: [*present, name] if isinstance(present, list) else {name: reason}}})


def without_entry(before: bytes | None, target: Target) -> bytes | None:
    """Give the file without an entry, however it is spelt there; None where there is no file. Raises Conflict."""
    if before is None:
        return None
    kind, _ = target
    text = _readable(before)
    if kind == "all":
        suspend = _data(text).get("suspend") or {}
        return _patched(text, {"suspend": {"all": None}}) if "all" in suspend else before
    present = _entries(text, kind)
    names = _spellings(present, target)
    if not names:
        return before
    if isinstance(present, list):
        return _patched(text, {"suspend": {kind: [each for each in present if each not in names]}})
    return _patched(text, {"suspend": {kind: dict.fromkeys(names)}})


def _write(target: Target, subject: str, change: Any) -> tuple[dict[str, Any], int]:
    platform = parts()
    written = platform.store.write(RULES_FILE, change, author=caller().author, subject=subject)
    if written.changed:
        platform.nudge()
    answer = hold_schemas.HoldWritten(commit=written.commit, changed=written.changed)
    return answer.model_dump(mode="json"), HTTPStatus.ACCEPTED


def _target(platform: Parts, asked: hold_schemas.Suspended) -> Target:
    """Say what is meant, if the caller may say so. Raises Invalid, Forbidden, NotFound."""
    if sum((asked.model is not None, asked.user_id is not None, asked.all)) != 1:
        raise Invalid("give exactly one of model, user_id and all")
    if asked.all:
        require_admin()
        return "all", ("",)
    if asked.user_id is not None:
        if not is_user_id(asked.user_id):
            raise Invalid(f"user_id: {quoted(asked.user_id)} is no user id", field="user_id")
        if not caller().may_see(asked.user_id):
            raise Forbidden("only the admin may do this for others")
        return "users", (asked.user_id,)
    who = _model(platform, asked.model or "")
    return "models", (f"{who.user_id}/{who.suffix}", who.model_key)


def _model(platform: Parts, text: str) -> Identity:
    name = model_name(text)
    if name is None:
        raise Invalid("model: right would be <user_id>/<suffix>, the path of its file or its key", field="model")
    found = reading.one_model(platform, name) if "/" not in name else None
    known = [found.identity] if found is not None else []
    if "/" in name:
        models, _ = reading.all_models(platform, name.partition("/")[0])
        known = [each.identity for each in models if f"{each.identity.user_id}/{each.identity.suffix}" == name]
    if not known or not caller().may_see(known[0].user_id):
        raise NotFound("there is no such model among yours")
    return known[0]


def _name(target: Target) -> str:
    kind, (name, *_) = target
    return {"all": "all models", "users": f"the models of {name}", "models": name}[kind]


def _readable(before: bytes | None) -> str:
    """Give the file's text. Raises Conflict where nobody could say what a change of it would mean."""
    found = rules.parse(before or b"")
    if isinstance(found, RulesRefused):
        where = f" (line {found.line})" if found.line else ""
        raise Conflict(f"{RULES_FILE} in git cannot be read{where}: {found.message}; put it right there first")
    return (before or b"").decode()


def _data(text: str) -> Mapping[str, Any]:
    document = yamlsafe.read(text.encode(), rules.MAX_BYTES)
    return document.data if isinstance(document, yamlsafe.Document) else {}


def _entries(text: str, kind: str) -> Mapping[str, Any] | list[str]:
    found = (_data(text).get("suspend") or {}).get(kind)
    return found if isinstance(found, Mapping | list) else {}


def _spellings(present: Mapping[str, Any] | list[str], target: Target) -> list[str]:
    """Give the names by which the file has the target: a model has several."""
    kind, names = target
    return [each for each in present if (model_name(each) if kind == "models" else each) in names]


def _patched(text: str, patch: Mapping[str, Any]) -> bytes:
    try:
        return _checked(patched(text, patch).encode())
    except Unpatchable:
        raise _unpatchable() from None


def _checked(after: bytes) -> bytes:
    """See that the file can still be read: it may have become too long."""
    if isinstance(rules.parse(after), RulesRefused):
        raise _unpatchable()
    return after


def _unpatchable() -> Conflict:
    return Conflict(f"{RULES_FILE} is written in a way that cannot be changed value by value; change it by a commit")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
