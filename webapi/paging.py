"""Pages of a list: a bounded number of items from a stable order, and an opaque cursor to the next ones.

A cursor holds the sorting key of the last item given, not a number of items, so that items which come and go between
two requests make nobody see an item twice or miss one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from webapi.problems import Invalid

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200

SortingKey: TypeAlias = tuple[str, ...]
Item = TypeVar("Item")

_LONGEST_NUMBER = 19  # digits: what a database's BIGINT holds
_BETWEEN = "\n"  # in no sorting key: they are made of times, names and keys


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items in order, and the cursor to those after them: None at the end."""

    items: tuple[Item, ...]
    next_cursor: str | None


def after(cursor: str | None) -> SortingKey:
    """Read a cursor: the sorting key of the last item that was given, smaller than every key where there was none.

    Raises Invalid for a cursor that is not one of ours.
    """
    if cursor is None:
        return ()
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        key = tuple(base64.b64decode(padded, altchars=b"-_", validate=True).decode().split(_BETWEEN))
    except (binascii.Error, ValueError):
        raise _no_cursor() from None
    if cursor_to(key) != cursor:  # several texts decode to the same bytes
        raise _no_cursor()
    return key


def number_after(cursor: str | None) -> int | None:
    """Read the cursor of a list that is sorted by one whole number; None for none. Raises Invalid as `after` does."""
    match after(cursor):
        case ():
            return None
        case (number,) if number.isdecimal() and number.isascii() and len(number) < _LONGEST_NUMBER:
            return int(number)
        case _:
            raise _no_cursor()


def page(items: Iterable[Item], key: Callable[[Item], SortingKey], *, limit: int, cursor: str | None) -> Page[Item]:
    """Give the `limit` items after `cursor` (from the first where it is None), in the order of `key`.

    Keys must differ between items. Raises Invalid for a cursor that is not one of ours.
    """
    last = after(cursor)
    ordered = sorted((item for item in items if key(item) > last), key=key)
    chosen = tuple(ordered[:limit])
    return Page(chosen, cursor_to(key(chosen[-1])) if len(ordered) > limit else None)


def cursor_to(key: SortingKey) -> str:
    """Write the cursor to what comes after the item with this sorting key."""
    return base64.urlsafe_b64encode(_BETWEEN.join(key).encode()).decode().rstrip("=")


def _no_cursor() -> Invalid:
    return Invalid("cursor: not one that this API gave; use `next_cursor` of the page before", field="cursor")
