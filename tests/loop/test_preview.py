"""A preview of a change is what the loop then does with it, over generated histories and changes."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from hypothesis import event, given, settings
from hypothesis import strategies as st

from reconciler.core.effects import Effect
from reconciler.core.entities import Entry, EventType, State
from reconciler.core.history import PathChange
from reconciler.core.preview import Preview, foresee, merged
from reconciler.locating import locate
from reconciler.names import spec_path
from reconciler.shell.objects import object_id
from reconciler.spec import ServingSpec, SpecRejected, parse
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, RULES, World, spec

USERS = st.sampled_from(["alice", "bob", "carl"])
SUFFIXES = st.sampled_from(["a", "b"])
RUBBISH = st.sampled_from(["", "a: [", "model_id: other\n", "num_replicas: two\n"])
SPECS = st.builds(
    lambda *parts: parts,
    st.sampled_from([GOOD, GOOD, OTHER, BROKEN, MISSING]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, None, "surge", "recreate"]),
    st.sampled_from(["", "# a remark\n"]),
)
MODES = st.sampled_from(["100644", "100644", "100644", "100755", "120000", "160000"])


@dataclass(frozen=True)
class Write:
    """What a commit does at one spec's path; None for the text removes the file."""

    user: str
    suffix: str
    text: str | None
    mode: str = "100644"

    @property
    def path(self) -> str:
        return spec_path(self.user, self.suffix)


@st.composite
def writes(draw: st.DrawFn) -> Write:
    user, suffix = draw(USERS), draw(SUFFIXES)
    kind = draw(st.sampled_from(["spec", "spec", "spec", "rubbish", "none"]))
    if kind == "none":
        return Write(user, suffix, None)
    if kind == "rubbish":
        return Write(user, suffix, draw(RUBBISH))
    source, replicas, gpus, seed, strategy, comment = draw(SPECS)
    text = comment + spec(suffix, source, replicas, gpus, seed=seed, strategy=strategy)
    return Write(user, suffix, text, draw(MODES))


# One model of a user at a time may be new in a change: which of two comes first where there is room for one, their keys
# say, and those come from the merge commit.
CHANGES = st.lists(writes(), min_size=1, max_size=4, unique_by=lambda write: write.user)
BASE = st.lists(st.one_of(writes(), st.sampled_from(["pass", "step", "settle", "wait"])), max_size=14)


def preview_of(world: World, change: list[Write]) -> Preview:
    """Do what `argus plan --server` does: the ledger as it is, and a tree that nobody has merged."""
    tree = world.source.read(None).tree
    here = {file.identity.path: Entry(file.mode, file.blob) for file in tree.files.values()}
    after = {write.path: entry_of(write) for write in change}
    wanted = merged(tree, [PathChange(path, here.get(path), entry) for path, entry in after.items()], world.now)
    content = {write.path: (write.text or "").encode() for write in change}
    parsed: dict[str, ServingSpec | SpecRejected] = {}
    for key, file in wanted.files.items():
        who = file.identity
        new = content.get(who.path)
        data = new if new is not None else world.source.blobs([file.blob], 65536)[file.blob]
        assert isinstance(data, bytes)
        parsed[key] = parse(data, owner=who.user_id, limits=RULES.limits, suffix=who.suffix)
    return foresee(
        tree=wanted,
        parsed=parsed,
        records=world.ledger.load().records,
        locate=lambda want, records: locate(world.folders, want, records, world.now, RULES.platform),
        cluster=world.runtime.observe().cluster,
        now=world.now,
        platform=RULES.platform,
    )


def entry_of(write: Write) -> Entry | None:
    return None if write.text is None else Entry(write.mode, object_id("blob", write.text.encode()))


EVENT_OF = MappingProxyType(
    {
        Effect.CREATE: EventType.DEPLOY_STARTED,
        Effect.START: EventType.DEPLOY_STARTED,
        Effect.ROLL: EventType.DEPLOY_STARTED,
        Effect.SCALE: EventType.SCALE_STARTED,
        Effect.FAIL: EventType.DEPLOY_FAILED,
    }
)
DOINGS = frozenset(EVENT_OF.values())


def apply_base(world: World, base: list[Write | str]) -> None:
    for step in base:
        match step:
            case Write():
                commit(world, [step])
            case "pass":
                world.loop.reconcile_once()
            case "step":
                world.runtime.step()
                world.wait(1)
            case "settle":
                world.settle()
            case _:
                world.wait(61)
    world.loop.reconcile_once()


def commit(world: World, change: list[Write]) -> str:
    files = {write.path: None if write.text is None else write.text.encode() for write in change}
    return world.source.commit(files, modes={write.path: write.mode for write in change}, at=world.now)


@settings(max_examples=100, deadline=None)
@given(base=BASE, change=CHANGES, gpus=st.sampled_from([4, 8, 64]))
def test_what_a_plan_says_is_what_the_next_pass_does(base: list[Write | str], change: list[Write], gpus: int) -> None:
    world = World(total_gpus=gpus)
    apply_base(world, base)
    records = world.ledger.load().records
    seen = len(world.ledger.events)

    foreseen = preview_of(world, change)
    commit(world, change)
    world.loop.reconcile_once()

    done = world.ledger.events[seen:]
    path_of = {key: record.identity.path for key, record in world.ledger.records.items()}
    for effect in {each.effect for each in foreseen.changes}:
        event(f"effect {effect}")
    # What is started, scaled and refused ...
    blocked = {each.identity.path for each in foreseen.changes if each.effect is Effect.BLOCK}
    untouched = set(path_of.values()) - {write.path for write in change}
    expected = {(each.identity.path, EVENT_OF[each.effect]) for each in foreseen.changes if each.effect in EVENT_OF}
    happened = {
        (path_of[each.model_key], each.event_type)
        for each in done
        if each.event_type in DOINGS
        # What can never fit is told once; a folder that is still missing fails again untouched.
        and not (each.event_type is EventType.DEPLOY_FAILED and path_of[each.model_key] in blocked | untouched)
    }
    assert happened == expected
    # ... taken down and refused ...
    gone = {each.identity.model_key for each in foreseen.changes if each.effect is Effect.REMOVE}
    leaving = {
        key
        for key, record in world.ledger.records.items()
        if key in records and records[key].state is not State.DELETING
        if record.state in {State.DELETING, State.DELETED}
    }
    assert leaving == gone
    rejected = {(each.identity.path, each.message) for each in foreseen.changes if each.rejection is not None}
    said = {
        (path_of[each.model_key], each.payload["message"])
        for each in done
        if each.event_type is EventType.SPEC_REJECTED
    }
    assert said == rejected
    # ... and what all of it comes to.
    assert world.runtime.app is not None
    held = world.runtime.app.workloads
    assert sum(each.total_gpus for each in held.values()) == foreseen.gpus.after
    sizes = {each.identity.path: (each.after.replicas, each.after.gpus) for each in foreseen.changes}
    by_path = {path_of[key]: (each.num_replicas, each.total_gpus) for key, each in held.items()}
    assert {path: by_path.get(path, (0, 0)) for path in sizes} == sizes
    for each in foreseen.changes:
        if each.effect is Effect.ROLL:
            assert held[each.identity.model_key].surge is not each.downtime
    for identity in foreseen.untouched:
        assert held.get(identity.model_key) == records[identity.model_key].applied
