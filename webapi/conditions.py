"""Conditional requests (RFC 9110, section 13): `If-Match` against a spec file's blob, and the `ETag` that names it.

The tag of a model is the SHA-1 of its file in git: it changes with the file and with nothing else, so that whoever
read a model can say "change it only if it still says what I saw".
"""

from __future__ import annotations

import re

from webapi.problems import Invalid, PreconditionFailed
from webapi.store import Condition

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LONGEST = 8192


def etag(blob: str | None) -> dict[str, str]:
    """Give the headers that name a file's content; none where there is no file."""
    return {} if blob is None else {"ETag": f'"{blob}"'}


def matching(if_match: str | None) -> Condition | None:
    """Read an `If-Match` header: what must be true of the file; None where nothing must. Raises Invalid.

    `*` is true of any file that is there. Tags are compared strongly, so a weak one is true of none.
    """
    if if_match is None:
        return None
    accepted = None if if_match.strip() == "*" else _strong_tags(if_match)

    def check(blob: str | None) -> None:
        if blob is None or (accepted is not None and blob not in accepted):
            raise PreconditionFailed(blob)

    return check


def _strong_tags(header: str) -> frozenset[str]:
    tags = set()
    position = 0
    if len(header) > _LONGEST:
        raise _no_tags()
    for part in re.finditer(r'[ \t]*((?:W/)?"[^"]*"|)[ \t]*(?:,|\Z)', header):
        if part.start() != position:
            raise _no_tags()
        position = part.end()
        if not part[1]:
            continue
        tag = _TAG.fullmatch(part[1])
        if tag is None:
            raise _no_tags()
        if tag[1] is None:
            tags.add(tag[2])
    if position != len(header):
        raise _no_tags()
    return frozenset(tags)


def _no_tags() -> Invalid:
    return Invalid('If-Match: right would be * or entity tags in double quotes, such as "8c1f0a5f…"', field="If-Match")
