"""Reading bodies: the Content-Type, the encoding, and JSON that a stranger wrote. Specs go on to `spec.parse`."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel
from werkzeug.exceptions import RequestEntityTooLarge

from webapi.problems import Invalid, UnsupportedMediaType

Body = TypeVar("Body", bound=BaseModel)

JSON = "application/json"
YAML = ("application/yaml", "application/x-yaml", "text/yaml")

MAX_DEPTH = 32
"""How many objects and arrays may lie inside each other in a JSON body."""


def read_spec() -> bytes:
    """Read the body of a request that carries a spec, as it was sent: YAML, or JSON.

    Raises UnsupportedMediaType, and Invalid where what is called JSON is none.
    """
    _require_type(*YAML, JSON)
    data = _read()
    if request.mimetype == JSON:
        _parse_json(data)
    return data


def read_json(kind: type[Body]) -> Body:
    """Read a JSON object as `kind`. Raises UnsupportedMediaType, Invalid, ValidationError."""
    _require_type(JSON)
    value = _parse_json(_read())
    if not isinstance(value, dict):
        raise Invalid("the body must be a JSON object")
    return kind.model_validate(value)


def _read() -> bytes:
    """Read the body whole. Raises RequestEntityTooLarge.

    Werkzeug refuses a Content-Length beyond the limit, but cuts a chunked body there without a word: half a spec may
    well be a valid one.
    """
    data = request.get_data()
    most = request.max_content_length
    if request.content_length is None and most is not None and len(data) >= most:
        raise RequestEntityTooLarge
    return data


def _require_type(*accepted: str) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype not in accepted:
        raise UnsupportedMediaType(f"send a body with Content-Type {' or '.join(accepted)}", accepted=list(accepted))
    if charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("send the body in UTF-8", accepted=[f"{name}; charset=utf-8" for name in accepted])


def _parse_json(data: bytes) -> Any:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_number)
    except RecursionError:
        _too_deep()
    except json.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error.msg}", line=error.lineno, column=error.colno) from None
    except ValueError:  # not UTF-8, or a number of more digits than Python reads
        raise Invalid("the body is not JSON in UTF-8, or holds a number that is too long") from None
    _require_flat(value)
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Invalid("the body names a member of one object twice; keep one")
    return value


def _no_number(_constant: str) -> NoReturn:
    raise Invalid("the body holds NaN or an infinity, which JSON does not know")


def _require_flat(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    _too_deep()


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep() -> NoReturn:
    raise Invalid(f"objects and arrays in the body lie more than {MAX_DEPTH} deep in each other")
