"""Gates: what is on the branch and does not count for now.

A gate is asked about changes that are pending: files that say something else than was last accepted, and files that are
gone while their models run. What it holds back keeps its model exactly as it was, replicas and all, and a model that is
new waits. Nothing of this is remembered: every pass compares git with the records anew, so a change that is let pass
counts at the next pass, and a ledger that lost its word on a hold loses no hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias

from reconciler.core import room
from reconciler.core.desired import Wanted, Withheld, kept
from reconciler.core.entities import (
    Commit,
    Deployment,
    Event,
    EventType,
    Held,
    HoldKind,
    Identity,
    Record,
    State,
    Tree,
)
from reconciler.core.model_events import event_of
from reconciler.spec import ServingSpec, SpecRejected

_GONE = {State.DELETING, State.DELETED}


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that no pass has let count yet. `record` is what is known of its model, None where that is new.

    `commit` brought it: of several, the newest. Where nobody knows which commit took a file away (history was
    rewritten), it is the branch's tip when that was first seen.
    """

    identity: Identity
    commit: Commit
    record: Record | None
    removes: bool = False


Gate: TypeAlias = Callable[[Mapping[str, Pending]], Mapping[str, Withheld]]
"""Changes by model key -> those of them that do not count now, and why."""


def pending(
    wanted: Mapping[str, Wanted],
    records: Mapping[str, Record],
    removals: Mapping[str, Commit],
    tree: Tree,
    seen: Mapping[str, Deployment],
) -> dict[str, Pending]:
    """Give the changes that gates are asked about, by model key.

    What is refused holds at what was accepted anyway, and what asks for the same as before changes nothing. A model
    that runs and of which nothing is known to have been accepted (the ledger was lost, and git does not have what runs:
    `core.recognition`) is taken over as it is: to hold it back would stop it. A model of which nothing was ever
    accepted can go.

    Args:
        wanted: What the repository wants.
        records: What the ledger knows.
        removals: The commits that took files away, as far as git has any (`Source.removals`).
        tree: The repository.
        seen: What Serve holds.
    """
    found = {}
    for key, want in wanted.items():
        record = records.get(key)
        if record is not None and record.state in _GONE:
            record = None
        if not isinstance(want.spec, ServingSpec):
            continue
        if (record is None or record.spec is None) and room.unrecorded(record, seen.get(key)):
            continue
        is_known = record is not None and record.held is None and record.rejection is None
        if record is not None and is_known and record.commit.sha == want.file.commit.sha:
            continue  # it counts already; told by the commit, for comparing specs costs more
        if record is None or record.spec != want.spec:
            found[key] = Pending(want.file.identity, want.file.commit, record)
    for key, record in records.items():
        if key not in wanted and record.state not in _GONE and record.spec is not None:
            commit = removals.get(key) or _first_seen(record) or tree.tip or record.commit
            found[key] = Pending(record.identity, commit, record, removes=True)
    return found


def gated(
    wanted: Mapping[str, Wanted], changes: Mapping[str, Pending], gates: Iterable[Gate]
) -> tuple[dict[str, Wanted], dict[str, Pending]]:
    """Ask each gate about the changes that those before it let pass.

    Gives what is wanted with what they hold back taken out, and the changes that count.
    """
    rest, after = dict(changes), dict(wanted)
    for gate in gates:
        for key, why in gate(MappingProxyType(rest)).items():
            after[key] = _without(rest.pop(key), why, wanted.get(key))
    return after, rest


def _without(change: Pending, why: Withheld, want: Wanted | None) -> Wanted:
    """Give what is wanted of a model whose change does not count: what was accepted before, at its commit."""
    before = kept(change.record, why, change.commit, is_gone=change.removes)
    if before is not None:
        return before
    assert want is not None, "what was never accepted is not pending as a removal"  # noqa: S101  `pending`
    return replace(want, spec=why, effective=None, newer=change.commit)


def events(before: Mapping[str, Record], after: Mapping[str, Record], now: datetime) -> tuple[Event, ...]:
    """Tell of holds that begin, and of those that are over because the change counts (or was taken back).

    What nobody could read, and is refused now that somebody can, is told as every refusal is.
    """
    told = []
    for key, record in after.items():
        had = before[key].held if key in before else None
        held = record.held
        if held is not None and (had is None or (had.kind, had.commit.sha) != (held.kind, held.commit.sha)):
            told.append(_told(record, EventType.CHANGE_HELD, held.commit, held, now))
        elif had is not None and held is None and (why := _refused_at_last(record, had)) is not None:
            where = {"path": record.identity.path, "field": why.field, "line": why.line, "column": why.column}
            told.append(event_of(record, EventType.SPEC_REJECTED, record.commit, now, message=why.message, **where))
        elif had is not None and held is None:
            told.append(_told(record, EventType.CHANGE_RELEASED, record.commit, had, now))
    return tuple(told)


def is_up(record: Record | None) -> bool:
    """Say whether something of a model runs, or is on its way, also where only Serve knows of it."""
    if record is None or record.state in _GONE:
        return False
    return room.runs(record) is not None or room.unrecorded(record, record.deployment)


def _refused_at_last(record: Record, had: Held) -> SpecRejected | None:
    return record.rejection if had.kind is HoldKind.DAMAGED and had.commit.sha == record.commit.sha else None


def _first_seen(record: Record) -> Commit | None:
    return record.held.commit if record.held is not None and record.held.removes else None


def _told(record: Record, event_type: EventType, commit: Commit, held: Held, now: datetime) -> Event:
    told = {"kind": held.kind.value, "message": held.message, "removes": held.removes}
    payload = told if event_type is EventType.CHANGE_HELD else {"kind": held.kind.value}
    return event_of(record, event_type, commit, now, **payload)
