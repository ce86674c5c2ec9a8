"""A branch whose history was rewritten: models keep who they are, because trees are compared and not commits.

Identity is a fold over history (`core.identity`), so another history gives everybody another name, and with it a
restart. What the ledger knows stands against that: a model that lives keeps its key as long as its path is there. The
keys that hold at the new head are written down once (`Carried`), and the fold goes on from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from reconciler.core import requests
from reconciler.core.entities import PLATFORM, ChangeKind, Event, EventType, FileChange, Record, State, Tree
from reconciler.core.identity import Carried, Keys, identity_of
from reconciler.errors import SourceUnreachable
from reconciler.names import SpecName

_GONE = {State.DELETING, State.DELETED}


def settle(
    since: str | None,
    records: Mapping[str, Record],
    known: Carried | None,
    tree: Tree,
    changes: tuple[FileChange, ...] | None,
) -> tuple[Tree, tuple[FileChange, ...], Carried | None]:
    """Give the tree under the identities that hold, what happened to its files, and what to write down (None: nothing).

    `changes` is what happened since `since`, None where history does not lead from there to `tree`. Raises
    SourceUnreachable where there was a branch and is none any more: that is no wish to stop every model.
    """
    if since is not None and tree.revision is None:
        raise SourceUnreachable(f"the branch is gone; it was at {since[:12]}, and nothing is changed until it is back")
    carried = carried_over(known, records, tree, changes)
    if carried is not None and carried is not known:
        tree = rekeyed(tree, carried)
        if changes is not None and brought_back(records, changes):
            return tree, tuple(_renamed(change, carried) for change in changes), carried
        return tree, requests.between(records, tree), carried
    return tree, changes if changes is not None else requests.between(records, tree), None


def carried_over(
    known: Carried | None, records: Mapping[str, Record], tree: Tree, changes: tuple[FileChange, ...] | None
) -> Carried | None:
    """Give `known`, or what takes its place where history would give a living model's path to another model.

    A file that a commit since then brought anew is another model, unless the removal that went before never counted
    (`brought_back`); where history does not connect (`changes` is None), nobody can tell, and the path decides.
    """
    made_anew = {change.identity.path for change in changes or () if change.kind is not ChangeKind.MODIFIED}
    back = brought_back(records, changes) if changes is not None else _only_held_gone(records)
    lost = {
        record.identity.path: key
        for key, record in records.items()
        if key not in tree.files
        and record.state not in _GONE
        and (record.identity.path in back if _is_held_gone(record) else record.identity.path not in made_anew)
    }
    if tree.revision is None or not lost or not lost.keys() & {file.identity.path for file in tree.files.values()}:
        return known
    keys = Keys()
    for key in (*lost.values(), *tree.files):
        keys.take(key)
    ours = set(lost.values())
    who = {}
    for key, file in tree.files.items():
        identity = file.identity
        if identity.path in lost:
            who[identity.path] = lost[identity.path]
        elif key in ours:  # one chance in 65,536 for two files of one user and one second
            name = SpecName(identity.user_id, identity.suffix)
            who[identity.path] = keys.issue(name, identity.path, tree.revision, identity.created_at).model_key
        else:
            who[identity.path] = key
    return Carried(tree.revision, MappingProxyType(who))


def brought_back(records: Mapping[str, Record], changes: Iterable[FileChange]) -> frozenset[str]:
    """Give the paths of models whose removal is held, and which a push brought back: it is as if nothing had been.

    A file that the API writes there is another model: its key was in the answer.
    """
    gone = {record.identity.path for record in records.values() if _is_held_gone(record)}
    created = (change for change in changes if change.kind is ChangeKind.CREATED and change.commit.source == "git")
    return frozenset(gone & {change.identity.path for change in created})


def _only_held_gone(records: Mapping[str, Record]) -> frozenset[str]:
    paths = {record.identity.path for record in records.values() if _is_held_gone(record)}
    return frozenset(paths - {record.identity.path for record in records.values() if not _is_held_gone(record)})


def _is_held_gone(record: Record) -> bool:
    return record.held is not None and record.held.removes and record.state not in _GONE


def _renamed(change: FileChange, carried: Carried) -> FileChange:
    """Give a change under the identity that holds for its path now."""
    path = change.identity.path
    if path not in carried.keys:
        return change
    who = identity_of(carried.keys[path], path)
    before = replace(change.before, identity=who) if change.before is not None else None
    after = replace(change.after, identity=who) if change.after is not None else None
    return replace(change, identity=who, before=before, after=after)


def rekeyed(tree: Tree, carried: Carried) -> Tree:
    """Give a tree at `carried.revision` under the identities that hold there."""
    files = {}
    for file in tree.files.values():
        path = file.identity.path
        files[carried.keys[path]] = replace(file, identity=identity_of(carried.keys[path], path))
    return replace(tree, files=MappingProxyType(files))


def rewritten(
    since: str | None, tree: Tree, changes: tuple[FileChange, ...] | None, now: datetime
) -> tuple[Event, ...]:
    """Give the event of a history that does not go on from `since`, with the old tip and the new one.

    Its author is empty: git does not know who pushed.
    """
    new = tree.revision
    if since is None or new is None or changes is not None:
        return ()
    return (
        Event(
            event_type=EventType.HISTORY_REWRITTEN,
            model_key=PLATFORM,
            user_id="",
            created_at=now,
            commit=new,
            author="",
            source="git",
            payload={"from": since, "to": new},
        ),
    )
