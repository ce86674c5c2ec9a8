"""What a change would do, before it is made: the loop's own decision on a tree that nobody has merged yet, as data.

Nothing is decided here: `desired`, `progress.committed` and `plan` are the loop's, and so are the records that they
work on. What cannot be known before the merge is said as such: the key and the name of a model that is new come from
the commit that brings it onto the branch, and where the cluster is not known, nor is what fits into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from reconciler.core import progress, requests, room
from reconciler.core.desired import Said, Wanted, Withheld, desired
from reconciler.core.effects import Effect
from reconciler.core.entities import (
    Cluster,
    Commit,
    Deployment,
    Entry,
    Health,
    HoldKind,
    Identity,
    Located,
    Record,
    RulesVersion,
    SpecFile,
    State,
    Tree,
    Unusable,
    Workload,
)
from reconciler.core.estimates import LoadTimes
from reconciler.core.gates import Gate, Pending, gated, pending
from reconciler.core.history import UNBORN, PathChange
from reconciler.core.outcomes import outcome
from reconciler.core.plan import Plan, plan
from reconciler.errors import ArgusError
from reconciler.names import RULES_FILE, SpecName, split_path, user_of_path
from reconciler.spec import ServingSpec, SpecRejected, UpdateStrategy

ANY_ROOM = Cluster(1e9, 1e9)
"""What is planned with where nobody knows the cluster: everything fits."""

_NO_LOADS = LoadTimes()

Locate = Callable[[Mapping[str, Wanted], Mapping[str, Record]], Mapping[str, Located | Unusable]]
"""(what is wanted, what is known) -> the folders that a pass would look at, by model key."""


class Collision(ArgusError):
    """The branch and the change disagree about a file since they parted. `paths` names the files."""

    code = "conflict"

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(sorted(paths))
        named = ", ".join(self.paths[:5]) + (" and others" if len(self.paths) > 5 else "")
        super().__init__(f"changed on both sides since they parted: {named}; rebase the change, then plan it")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a model runs."""

    replicas: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Shift:
    """GPUs before and after."""

    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What would happen to one model.

    `is_new` models have their key and name from the merge: what `identity` says of them is a stand-in. `touched` is
    False for a model whose own file stays as it is. `downtime` is None where nothing is replaced, or where only the
    cluster could tell. `fields` holds what the spec says otherwise (`from`, `to`), where both versions can be read;
    `rejection` says where a file that cannot be used is wrong. `held` is why the change would not count for now, and
    `then` what it would do otherwise.
    """

    identity: Identity
    is_new: bool
    touched: bool
    effect: Effect
    downtime: bool | None
    before: Size
    after: Size
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    message: str | None = None
    rejection: SpecRejected | None = None
    held: Withheld | None = None
    then: Effect | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change would do. `changes` are in the order of their paths; `total_gpus` is None where not known."""

    changes: tuple[Change, ...]
    untouched: tuple[Identity, ...]
    total_gpus: float | None
    gpus: Shift
    owners: Mapping[str, Shift]


def merged(tree: Tree, changes: Iterable[PathChange], at: datetime) -> Tree:
    """Give the tree as it would be after a merge at `at` that brings `changes`, made on another base.

    A change that `tree` has already is none. Raises Collision where `tree` has something else at a path of a spec than
    the change began from. (Git may yet merge two changes of one file by lines; a person should look at the outcome.)
    """
    files = {file.identity.path: file for file in tree.files.values()}
    users = set(tree.users)
    commit = Commit(UNBORN, "", at, "git")
    rules = tree.rules
    collisions = []
    for change in changes:
        if change.path == RULES_FILE:
            rules = (RulesVersion(commit, change.after), *rules)
        if change.after is not None and (user_id := user_of_path(change.path)):
            users.add(user_id)
        name = split_path(change.path)
        if name is None:
            continue
        here = files.get(change.path)
        present = Entry(here.mode, here.blob) if here else None
        if present == change.after:
            continue
        if present != change.before:
            collisions.append(change.path)
        elif change.after is None:
            del files[change.path]
        else:
            identity = here.identity if here else _stand_in(name, change.path, at)
            files[change.path] = SpecFile(identity, change.after.blob, change.after.mode, commit)
    if collisions:
        raise Collision(collisions)
    by_key = MappingProxyType({file.identity.model_key: file for file in files.values()})
    return Tree(revision=tree.revision, files=by_key, users=frozenset(users), tip=commit, rules=rules)


def as_if_running(tree: Tree, parsed: Mapping[str, Said], now: datetime, platform: str) -> dict[str, Record]:
    """Give the records that there would be if everything in `tree` that can be used ran, in a cluster without end."""
    wanted = desired(tree, parsed, {})
    records = progress.committed({}, wanted, {})
    decided = plan(
        wanted=wanted,
        folders=assume_folders(wanted, records),
        records=records,
        cluster=ANY_ROOM,
        now=now,
        platform=platform,
    )
    started = progress.decided(records, decided, now, (1.0,)).records
    return {key: _answering(record) for key, record in started.items()}


def assume_folders(wanted: Mapping[str, Wanted], _records: Mapping[str, Record]) -> dict[str, Located | Unusable]:
    """Take every folder for one that is there and may be served: a `Locate` for those who see no disk."""
    return {key: Located(each.effective.model_source) for key, each in wanted.items() if each.effective is not None}


def foresee(
    *,
    tree: Tree,
    parsed: Mapping[str, Said],
    records: Mapping[str, Record],
    locate: Locate,
    cluster: Cluster | None,
    now: datetime,
    platform: str,
    update_strategy: UpdateStrategy = "auto",
    load_times: LoadTimes = _NO_LOADS,
    gates: Iterable[Gate] = (),
    removals: Mapping[str, Commit] = MappingProxyType({}),
) -> Preview:
    """Say what the next pass would do if `tree` were the branch's newest revision.

    Args:
        tree: The repository as it would be (`merged`).
        parsed: What its files say, by model key.
        records: What the ledger knows after the last pass (or `as_if_running`).
        locate: Where models' folders are.
        cluster: The GPUs there are; None where nobody knows.
        now: The time, for failed versions that wait.
        platform: What the platform's configuration adds to every engine (`core.workload`).
        update_strategy: How models are updated whose spec does not say.
        load_times: How long earlier starts took.
        gates: What may hold changes back, in their order.
        removals: The commits that took away files which the branch has lost already (`Source.removals`).
    """
    deployments = {key: record.deployment for key, record in records.items() if record.deployment is not None}

    def decide(wanted: Mapping[str, Wanted]) -> Plan:
        known = progress.committed(records, wanted, {})
        return plan(
            wanted=wanted,
            folders=locate(wanted, known),
            records=known,
            cluster=cluster or ANY_ROOM,
            now=now,
            platform=platform,
            update_strategy=update_strategy,
            others_gpus=room.others(cluster, known.values(), None) if cluster else 0.0,
            deployments=deployments,
            load_times=load_times,
        )

    tree, parsed = _brought_back(tree, parsed, records)
    asked = desired(tree, parsed, records)
    changes = pending(asked, records, removals, tree, deployments)
    wanted, counting = gated(asked, changes, gates)
    decided = decide(wanted)
    held = {key: change for key, change in changes.items() if key not in counting}
    otherwise = preview(records, asked, decide(asked), cluster) if held else None
    return preview(records, wanted, decided, cluster, held=held, otherwise=otherwise)


def preview(
    records: Mapping[str, Record],
    wanted: Mapping[str, Wanted],
    decided: Plan,
    cluster: Cluster | None,
    *,
    held: Mapping[str, Pending] = MappingProxyType({}),
    otherwise: Preview | None = None,
) -> Preview:
    """Compare a plan with the records from before it.

    `held` are the changes that gates hold back, and `otherwise` what would happen if they did not.
    """
    changes = []
    untouched = []
    then = {change.identity.model_key: change for change in otherwise.changes} if otherwise is not None else {}
    owners: dict[str, Shift] = defaultdict(Shift)
    for key in decided.actions:
        change = _change(records.get(key), wanted.get(key), decided, key, knows_room=cluster is not None)
        if key in held and key in then:
            change = _held(change, then[key], wanted[key], held[key])
        elif key in wanted:
            change = _unread(change, wanted[key], records.get(key))
        if change.effect is not Effect.NONE:
            changes.append(change)
        elif key in wanted:
            untouched.append(change.identity)
        user_id = change.identity.user_id
        had = owners[user_id]
        owners[user_id] = Shift(had.before + change.before.gpus, had.after + change.after.gpus)
    return Preview(
        changes=tuple(sorted(changes, key=lambda change: (change.identity.path, change.identity.model_key))),
        untouched=tuple(sorted(untouched, key=lambda identity: identity.path)),
        total_gpus=cluster.total_gpus if cluster else None,
        gpus=Shift(sum(each.before for each in owners.values()), sum(each.after for each in owners.values())),
        owners=MappingProxyType(dict(sorted(owners.items()))),
    )


def _change(before: Record | None, want: Wanted | None, decided: Plan, key: str, *, knows_room: bool) -> Change:
    known = want.file if want else before
    assert known is not None, "a plan decides only for models that are wanted or known"  # noqa: S101  plan's contract
    touched = want is None or before is None or before.commit.sha != want.file.commit.sha
    found = outcome(decided.actions[key], before, touched=touched)
    effect, message = found.effect, found.message
    rejected = want.spec if want and touched and isinstance(want.spec, SpecRejected) else None
    if rejected is not None:
        message = rejected.message
        effect = effect if effect in _HAPPENS_ANYWAY else Effect.REJECT
    return Change(
        identity=known.identity,
        is_new=before is None and want is not None and want.file.commit.sha == UNBORN,
        touched=touched,
        effect=effect,
        downtime=found.downtime if knows_room else None,
        before=_size(before.applied if before else None),
        after=_size(decided.app.workloads.get(key)),
        fields=_fields(before, want),
        message=message,
        rejection=rejected,
    )


def _brought_back(
    tree: Tree, parsed: Mapping[str, Said], records: Mapping[str, Record]
) -> tuple[Tree, Mapping[str, Said]]:
    """Give models whose removal is held their own keys where a push brings their files back (`core.rewrites`)."""
    back = {
        record.identity.path: record.identity
        for key, record in records.items()
        if record.held is not None and record.held.removes and key not in tree.files
    }
    ours = {
        key: back[file.identity.path]
        for key, file in tree.files.items()
        if file.commit.sha == UNBORN and file.identity.path in back
    }
    files = {
        ours[key].model_key if key in ours else key: replace(file, identity=ours[key]) if key in ours else file
        for key, file in tree.files.items()
    }
    says = {ours[key].model_key if key in ours else key: said for key, said in parsed.items()}
    return (replace(tree, files=MappingProxyType(files)), says) if ours else (tree, parsed)


def _held(stays: Change, then: Change, want: Wanted, pending: Pending) -> Change:
    """Give a change that is held back: what it would do otherwise, with what runs in fact.

    What is on the branch and held already is no effect of this change.
    """
    known = pending.record.held if pending.record is not None else None
    if not isinstance(want.spec, Withheld) or (known is not None and known.commit.sha == pending.commit.sha):
        return stays
    return replace(
        then,
        effect=Effect.WITHHOLD,
        downtime=None,
        after=stays.after,
        message=want.spec.message,
        held=want.spec,
        then=then.effect,
    )


def _unread(change: Change, want: Wanted, before: Record | None) -> Change:
    """Say of a file that nobody can read that it would not count, unless it is on the branch and held so already."""
    why, newer = want.spec, want.newer
    if not isinstance(why, Withheld) or why.kind is not HoldKind.DAMAGED or newer is None:
        return change
    known = before.held if before is not None else None
    if change.effect is not Effect.NONE or (known is not None and known.commit.sha == newer.sha):
        return change
    return replace(change, effect=Effect.BLOCK, message=why.message, touched=True)


# A file that is refused does not keep what was accepted before from being started or scaled.
_HAPPENS_ANYWAY = {Effect.CREATE, Effect.START, Effect.SCALE, Effect.ROLL}


def _fields(before: Record | None, want: Wanted | None) -> Mapping[str, Any]:
    if before is None or before.spec is None or want is None or not isinstance(want.spec, ServingSpec):
        return {}
    return requests.changed(before.spec, want.spec)


def _size(workload: Workload | None) -> Size:
    return Size(workload.num_replicas, workload.total_gpus) if workload else Size()


def _answering(record: Record) -> Record:
    if record.applied is None:
        return record
    up, count = record.applied, record.applied.num_replicas
    return replace(
        record,
        state=State.RUNNING,
        serving=up,
        serving_commit=record.applied_commit,
        deployment=Deployment(up.model_key, up.version, Health.HEALTHY, count, count, 0, 0, ""),
    )


def _stand_in(name: SpecName, path: str, at: datetime) -> Identity:
    """Identify a model that no commit has brought yet, so that it takes its turn where it will: last of its user's."""
    return Identity(
        model_key=f"svc-{name.user_id}-{at:%Y%m%d-%H%M%S}-~{name.suffix}",
        model_id=f"{name.user_id}-<minute of the merge>-{name.suffix}",
        user_id=name.user_id,
        suffix=name.suffix,
        path=path,
        created_at=at,
    )
