"""What a PATCH makes of a spec's file: the same text with the values changed, held to the same rules as any spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler import yamlsafe
from reconciler.spec import Limits, ServingSpec, SpecRejected, merge_patch, parse
from webapi.patching import patched
from webapi.problems import Conflict, SpecRefused
from webapi.yamltext import Unpatchable


def patched_spec(before: bytes, patch: Mapping[str, Any], *, owner: str, limits: Limits, suffix: str) -> bytes:
    """Apply a merge patch to a spec's file. Gives `before` itself where the spec says the same afterwards.

    Raises SpecRefused where the result is no acceptable spec, Conflict where the file cannot be changed in place.
    """

    def check(data: bytes) -> ServingSpec | SpecRejected:
        return parse(data, owner=owner, limits=limits, suffix=suffix)

    document = yamlsafe.read(before, limits.max_bytes)
    present = check(before)
    if isinstance(document, yamlsafe.Refused) and isinstance(present, SpecRejected):
        raise SpecRefused(replace(present, message=f"the spec in git cannot be read: {present.message}"))
    data = document.data if isinstance(document, yamlsafe.Document) else {}
    wanted = check(json.dumps(merge_patch(data, patch)).encode())
    if isinstance(wanted, SpecRejected):
        raise SpecRefused(replace(wanted, line=None, column=None))  # of a text that nobody has seen
    if wanted == present:
        return before
    try:
        after = patched(before.decode(), patch).encode()
    except Unpatchable:
        raise _unpatchable() from None
    if check(after) != wanted:
        raise _unpatchable()
    return after


def subject_of(patch: Mapping[str, Any], suffix: str) -> str:
    """Give the subject of the commit that applies `patch`."""
    if patch.keys() != {"num_replicas"}:
        return f"Update {suffix}"
    number = patch["num_replicas"]
    return f"Scale {suffix} to {number} replica{'' if number == 1 else 's'}"


def _unpatchable() -> Conflict:
    return Conflict(
        "the spec's file is written in a way that cannot be changed value by value; "
        "send the whole spec with POST instead"
    )
