"""Reading `argus.yaml`: bytes in, rules out, or one reason with its place why not. Total, and nothing is guessed.

suspend:
  all: "moving to another cluster"        # or true
  users: {alice: "on leave", bob: null}   # or a list of names, without reasons
  models: {alice/qwen: "benchmark"}       # <user_id>/<suffix>, the file's path, or a model key
freeze:
  - {cron: "0 18 * * fri", duration: 60h, timezone: Europe/Berlin, reason: weekend, users: [alice]}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, timedelta, tzinfo
from typing import Any, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from reconciler import yamlsafe
from reconciler.core import cron
from reconciler.core.holds import NO_RULES, Freeze, HoldRules
from reconciler.names import is_suffix, is_user_id, split_path
from reconciler.yamlsafe import Document, Path, dotted, kind_of, shorten, shown

MAX_BYTES = 65_536
"""The longest file that is read."""
MOST_FREEZES = 50
LONGEST_REASON = 200
LONGEST_FREEZE = timedelta(days=31)

_KEY = re.compile(r"svc-[a-z0-9._-]{1,120}\Z")
_DURATION = re.compile(r"(?:([0-9]{1,3})d)?(?:([0-9]{1,3})h)?(?:([0-9]{1,4})m)?\Z")
_SPEAKS = re.compile(rb"^[ \t]*[^#\s]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RulesRefused:
    """Why `argus.yaml` is not read, and where: line and column count from 1, None where the whole file is meant."""

    message: str
    line: int | None = None
    column: int | None = None


class _RefusedError(Exception):
    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def parse(data: bytes) -> HoldRules | RulesRefused:
    """Read the file. One without anything but comments says nothing, and is as good as none."""
    if len(data) <= MAX_BYTES and not _SPEAKS.search(data):
        return NO_RULES
    document = yamlsafe.read(data, MAX_BYTES)
    if isinstance(document, yamlsafe.Refused):
        field = f"{document.field}: " if document.field else ""
        return RulesRefused(field + document.message, document.line, document.column)
    try:
        return _rules(document)
    except _RefusedError as error:
        name = dotted(error.path)
        return RulesRefused(f"{f'{name}: ' if name else ''}{error}", *document.place(error.path))


def model_name(text: str) -> str | None:
    """Give the one name of a model that rules know it by, from any that people write; None where it is none."""
    name = split_path(text)
    if name is not None:
        return f"{name.user_id}/{name.suffix}"
    user_id, slash, suffix = text.partition("/")
    if slash and is_user_id(user_id) and is_suffix(suffix):
        return text
    return text if _KEY.match(text) else None


def _rules(document: Document) -> HoldRules:
    data = document.data
    _only(data, (), {"suspend", "freeze"})
    suspend = _mapping(data.get("suspend"), ("suspend",))
    _only(suspend, ("suspend",), {"all", "users", "models"})
    freezes = [] if data.get("freeze") is None else data["freeze"]
    if not isinstance(freezes, list) or len(freezes) > MOST_FREEZES:
        _refuse(("freeze",), f"right would be a list of windows, {MOST_FREEZES} at most")
    named = _reasons(suspend.get("models"), ("suspend", "models"))
    models = {}
    for text, reason in named.items():
        name = model_name(text)
        if name is None:
            _refuse(
                ("suspend", "models", text), "right would be <user_id>/<suffix>, the path of its file or its model key"
            )
        models[name] = reason
    users = _reasons(suspend.get("users"), ("suspend", "users"))
    for user_id in users:
        if not is_user_id(user_id):
            _refuse(("suspend", "users", user_id), "is no user id")
    return HoldRules(
        everything=_everything(suspend.get("all")),
        users=users,
        models=models,
        freezes=tuple(_freeze(each, ("freeze", number)) for number, each in enumerate(freezes)),
    )


def _everything(value: Any) -> str | None:
    if value is None or value is False:
        return None
    if value is True:
        return ""
    return _reason(value, ("suspend", "all"), "true, false or a reason")


def _freeze(value: Any, path: Path) -> Freeze:
    if not isinstance(value, dict):
        _refuse(path, f"right would be a window with cron and duration, not {kind_of(value)}")
    _only(value, path, {"cron", "duration", "timezone", "reason", "users"})
    for name in ("cron", "duration"):
        if not isinstance(value.get(name), str):
            _refuse((*path, name) if name in value else path, f"{name} is needed, as text")
    found = cron.parse(value["cron"])
    if isinstance(found, str):
        _refuse((*path, "cron"), found)
    users = value.get("users")
    if users is not None and not (isinstance(users, list) and all(isinstance(u, str) and is_user_id(u) for u in users)):
        _refuse((*path, "users"), "right would be a list of user ids")
    return Freeze(
        cron=found,
        duration=_duration(value["duration"], (*path, "duration")),
        zone=_zone(value.get("timezone"), (*path, "timezone")),
        reason=_reason(value.get("reason"), (*path, "reason"), "one line of text"),
        users=frozenset(users) if users is not None else None,
    )


def _duration(text: str, path: Path) -> timedelta:
    match = _DURATION.match(text)
    parts = [int(each or 0) for each in match.groups()] if match is not None else [0, 0, 0]
    found = timedelta(days=parts[0], hours=parts[1], minutes=parts[2])
    if not timedelta() < found <= LONGEST_FREEZE:
        _refuse(path, f"right would be a time like 60h, 90m or 1d12h, {LONGEST_FREEZE.days}d at most")
    return found


def _zone(name: Any, path: Path) -> tzinfo:
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        _refuse(path, f"{shown(name)} is no time zone's name like Europe/Berlin or UTC")


def _reasons(value: Any, path: Path) -> dict[str, str | None]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            if not isinstance(each, str):
                _refuse((*path, number), f"right would be a name, not {kind_of(each)}")
        return dict.fromkeys(value)
    return {name: _reason(each, (*path, name), "a reason, or null") for name, each in _mapping(value, path).items()}


def _reason(value: Any, path: Path, right: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_REASON:
        _refuse(path, f"right would be {right}, {LONGEST_REASON} characters at most")
    return value


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(path, f"right would be names with what belongs to them, not {kind_of(value)}")
    return value


def _only(value: dict[str, Any], path: Path, known: set[str]) -> None:
    for name in value:
        if name not in known:
            _refuse((*path, name), f"unknown; right would be one of {', '.join(sorted(known))}")


def _refuse(path: Path, message: str) -> NoReturn:
    raise _RefusedError(path, shorten(message, 300))
