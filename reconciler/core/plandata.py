"""A preview as plain data, the one form in which the API answers it and `argus plan` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from reconciler.core.authorship import Authorship
from reconciler.core.entities import Commit, Identity
from reconciler.core.preview import Change, Preview, Shift

MOST_NAMED = 20
"""How many models that stay untouched are named; all are counted."""


def data(
    preview: Preview,
    *,
    base: str | None,
    head: str | None = None,
    against: Literal["base", "platform"],
    new_users: Iterable[str] = (),
    viewer: str | None = None,
    authorship: Authorship | None = None,
) -> dict[str, Any]:
    """Give a preview as what JSON can hold.

    Args:
        preview: What would happen.
        base: The revision that the change was planned against; None for a branch unborn.
        head: The revision that was planned, where it has one.
        against: What is taken to run: all that the base wants, or what a platform's ledger says.
        new_users: Users whom the change brings.
        viewer: Who will read it, where that is a user: others' models are then counted and not named. None for all.
        authorship: Who wrote the change, and under which policy; None where nobody says, or where it plays no part.
    """
    writers = authorship.writers if authorship is not None else {}

    def shown(identity: Identity) -> bool:
        return viewer is None or identity.user_id == viewer

    mine = [change for change in preview.changes if shown(change.identity)]
    untouched = [identity for identity in preview.untouched if shown(identity)]
    owners = {user_id: shift for user_id, shift in preview.owners.items() if viewer in {None, user_id}}
    return {
        "base": base,
        "head": head,
        "against": against,
        "changes": [_change(change, writers.get(change.identity.path)) for change in mine],
        "untouched": {
            "count": len(untouched),
            "paths": [identity.path for identity in untouched[:MOST_NAMED]],
        },
        "others": {
            "changed": len(preview.changes) - len(mine),
            "untouched": len(preview.untouched) - len(untouched),
        },
        "gpus": {**_shift(preview.gpus), "total": preview.total_gpus},
        "owners": [{"user_id": user_id, **_shift(shift)} for user_id, shift in owners.items()],
        "new_users": sorted(new_users),
        "policy": {"name": authorship.policy, "notes": authorship.notes()} if authorship is not None else None,
    }


def _change(change: Change, writer: Commit | None) -> Mapping[str, Any]:
    identity, rejection, held = change.identity, change.rejection, change.held
    return {
        "path": identity.path,
        "user_id": identity.user_id,
        "suffix": identity.suffix,
        "model_key": None if change.is_new else identity.model_key,
        "model_id": None if change.is_new else identity.model_id,
        "effect": change.effect.value,
        "touched": change.touched,
        "downtime": change.downtime,
        "replicas": {"before": change.before.replicas, "after": change.after.replicas},
        "gpus": {"before": change.before.gpus, "after": change.after.gpus},
        "fields": dict(change.fields),
        "message": change.message,
        "field": rejection.field if rejection else None,
        "line": rejection.line if rejection else None,
        "column": rejection.column if rejection else None,
        "held": {"kind": held.kind.value, "then": change.then.value} if held and change.then else None,
        "written_by": {"name": writer.author, "email": writer.email, "commit": writer.sha} if writer else None,
    }


def _shift(shift: Shift) -> dict[str, int]:
    return {"before": shift.before, "after": shift.after}
