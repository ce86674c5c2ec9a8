"""What commits asked for: one event for each spec file that a commit touched."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reconciler.core.desired import PLAIN_FILE, Said
from reconciler.core.entities import ChangeKind, Event, EventType, FileChange, Record, State, Tree
from reconciler.core.times import iso
from reconciler.engine_args import given
from reconciler.spec import ServingSpec, SpecRejected


def request(change: FileChange, before: Said | None, after: Said | None, now: datetime) -> Event:
    """Name what `change` asks for, from what the file said before and says now (None where it is absent)."""
    event_type, payload = _name(change, before, after)
    return Event(
        event_type=event_type,
        model_key=change.identity.model_key,
        user_id=change.identity.user_id,
        created_at=now,
        commit=change.commit.sha,
        author=change.commit.author,
        source=change.commit.source,
        payload={"path": change.identity.path, "committed_at": iso(change.commit.committed_at), **payload},
    )


def between(records: Mapping[str, Record], tree: Tree) -> tuple[FileChange, ...]:
    """Compare what the ledger knows with a tree, for a history that does not connect the two.

    What one or several commits did then shows as one change, at the commit that last touched the file; a removal
    shows at the last commit that is known of the file. Trees are compared, not commits: a file that a rewritten history
    holds unchanged asks for nothing.
    """
    changes = []
    for key, file in tree.files.items():
        record = records.get(key)
        if record is None:
            changes.append(FileChange(ChangeKind.CREATED, file.identity, file.commit, None, file))
        elif record.blob != file.blob or (file.mode != PLAIN_FILE and record.rejection is None):
            changes.append(FileChange(ChangeKind.MODIFIED, file.identity, file.commit, None, file))
    for key, record in records.items():
        if key not in tree.files and record.state is not State.DELETING:
            changes.append(FileChange(ChangeKind.DELETED, record.identity, record.commit, None, None))
    return tuple(sorted(changes, key=lambda change: (change.commit.committed_at, change.identity.model_key)))


def _name(change: FileChange, before: Said | None, after: Said | None) -> tuple[EventType, dict[str, Any]]:
    if change.kind is ChangeKind.DELETED:
        return EventType.DELETE_REQUESTED, {}
    if isinstance(after, SpecRejected):
        where = {"field": after.field, "line": after.line, "column": after.column}
        return EventType.SPEC_REJECTED, {"message": after.message, **where}
    if change.kind is ChangeKind.CREATED or after is None:
        return EventType.DEPLOY_REQUESTED, {}
    if not isinstance(before, ServingSpec) or not isinstance(after, ServingSpec):
        return EventType.UPDATE_REQUESTED, {}
    fields = changed(before, after)
    event_type = EventType.SCALE_REQUESTED if fields.keys() == {"num_replicas"} else EventType.UPDATE_REQUESTED
    return event_type, {"changed": fields}


def changed(before: ServingSpec, after: ServingSpec) -> dict[str, Any]:
    """Say which fields of a spec differ: `{field: {"from": ..., "to": ...}}`."""
    old, new = _facts(before), _facts(after)
    return {field: {"from": old[field], "to": new[field]} for field in new if old[field] != new[field]}


def _facts(spec: ServingSpec) -> dict[str, Any]:
    return {
        "model_source": spec.model_source,
        "num_replicas": spec.num_replicas,
        "gpus_per_replica": spec.gpus_per_replica,
        "update_strategy": spec.update_strategy,
        "engine_kwargs": given(spec.engine_kwargs),
    }
