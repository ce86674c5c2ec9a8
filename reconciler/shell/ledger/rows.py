"""Values as rows and back, exactly: any Record, Event or PlatformStatus that goes in comes out equal.

The way is read off the dataclasses themselves, so that a field added to one of them is kept without a word here. A
field that a stored value lacks gets its default; one that the class no longer has is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from reconciler.core.cases import Case
from reconciler.core.entities import Event, Record
from reconciler.core.identity import Carried
from reconciler.ports import PlatformStatus


def record_row(record: Record) -> dict[str, Any]:
    """Give a model's row. Raises TypeError where a value is no JSON, ValueError for a time without a timezone."""
    identity = record.identity
    return {
        "model_key": identity.model_key,
        "user_id": identity.user_id,
        "suffix": identity.suffix,
        "state": record.state.value,
        "created_at": identity.created_at,
        "updated_at": record.updated_at,
        "commit_sha": record.commit.sha,
        "serving_commit_sha": record.serving_commit.sha if record.serving_commit else None,
        "record": _dumps(record),
    }


def record_of(text: str) -> Record:
    """Read the column `record`."""
    record: Record = _reader(Record)(json.loads(text))
    return record


def event_row(event: Event) -> dict[str, Any]:
    """Give an event's row, without its id. Raises TypeError and ValueError as `record_row` does."""
    return {
        "model_key": event.model_key,
        "event_type": event.event_type.value,
        "created_at": event.created_at,
        "commit_sha": event.commit,
        "event": _dumps(event),
    }


def event_of(text: str) -> Event:
    """Read the column `event`."""
    event: Event = _reader(Event)(json.loads(text))
    return event


def case_row(case: Case) -> dict[str, Any]:
    """Give a case's row, without what the ledger itself keeps of it. Raises TypeError and ValueError as above."""
    return {
        "commit_sha": case.commit.sha,
        "path": case.path,
        "user_id": case.user_id,
        "model_key": case.model_key,
        "verdict": case.verdict.value if case.verdict else None,
        "document": _dumps(case),
    }


def case_of(text: str) -> Case:
    """Read the column `document` of a case."""
    case: Case = _reader(Case)(json.loads(text))
    return case


def status_row(status: PlatformStatus) -> dict[str, Any]:
    """Give the platform's status as a row, without its id."""
    return {"seen_at": status.seen_at, "status": _dumps(status)}


def status_of(text: str) -> PlatformStatus:
    """Read the column `status`."""
    status: PlatformStatus = _reader(PlatformStatus)(json.loads(text))
    return status


def carried_row(carried: Carried) -> dict[str, Any]:
    """Give the identities that were carried over as a row, without its id."""
    return {"revision": carried.revision, "document": _dumps(carried.keys)}


def carried_of(revision: str, document: str) -> Carried:
    """Read a row that `carried_row` made."""
    return Carried(revision, json.loads(document))


def _dumps(value: object) -> str:
    return json.dumps(value, default=_as_json, ensure_ascii=True, separators=(",", ":"))


def _as_json(value: Any) -> Any:
    """Take one step from a value towards JSON, for what `json` does not know itself."""
    names = _field_names(value.__class__)
    if names:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time without a timezone")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be kept in the ledger")


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:  # noqa: PLR0911  one answer a kind of type
    """Give the function that makes a value of type `kind` from what `_as_json` made of it."""
    if get_origin(kind) in {Union, UnionType}:
        return _optional(kind)
    if get_origin(kind) is Annotated:
        return _reader(get_args(kind)[0])
    if not isinstance(kind, type):
        return _same  # Any, a Literal, a Mapping: JSON already
    if issubclass(kind, Enum):
        return kind
    if issubclass(kind, datetime):
        return datetime.fromisoformat
    if issubclass(kind, BaseModel):
        return _model_reader(kind)
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    return _same


def _optional(kind: Any) -> Callable[[Any], Any]:
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if len(kinds) != 1:
        return _same
    inner = _reader(kinds[0])
    return lambda value: None if value is None else inner(value)


def _dataclass_reader(kind: type) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(value: Mapping[str, Any]) -> Any:
        return kind(**{name: readers[name](item) for name, item in value.items() if name in readers})

    return read


def _model_reader(kind: type[BaseModel]) -> Callable[[Any], Any]:
    hints: dict[str, Any] = {name: field.annotation for name, field in kind.model_fields.items()}
    readers = {name: _reader(hint) for name, hint in hints.items()}

    def read(value: Mapping[str, Any]) -> Any:
        try:
            return kind.model_validate(value)
        except ValidationError:
            # It was valid when it was written. Rules that have become stricter since then must not keep the loop from
            # reading its ledger: what the file says is judged anew, from the file.
            known = {name: readers[name](item) for name, item in value.items() if name in readers}
            return kind.model_construct(**known)

    return read


def _same(value: Any) -> Any:
    return value
