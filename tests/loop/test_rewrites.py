"""History that is rewritten under a running platform: whoever's path stays keeps key, name and processes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.core.entities import PLATFORM, EventType, State
from reconciler.errors import LedgerUnreachable, SourceUnreachable
from reconciler.names import spec_path
from tests.loop.world import OTHER, World, spec


def platform_events(world: World) -> list[dict[str, str]]:
    found = [event for event in world.ledger.events if event.model_key == PLATFORM]
    assert {event.event_type for event in found} <= {EventType.HISTORY_REWRITTEN}
    return [dict(event.payload) for event in found]


def two_models() -> World:
    world = World()
    world.write("alice", "a", spec("a"))
    world.write("bob", "b", spec("b"))
    world.settle()
    return world


@pytest.mark.parametrize("squash", [False, True])
def test_a_forced_push_of_the_same_files_renames_nobody_and_starts_nothing(squash: bool) -> None:
    world = two_models()
    before, applies = dict(world.ledger.records), world.runtime.applies
    processes = {key: world.runtime.pids(key) for key in before}
    old = world.ledger.revision
    world.source.rewrite(2, squash=squash)
    native = {file.identity.model_key for file in world.source.read(None).tree.files.values()}
    assert not native & before.keys(), "the premise: by history alone everybody would be somebody else"
    world.settle()
    assert world.ledger.records.keys() == before.keys()
    assert {key: world.runtime.pids(key) for key in before} == processes
    assert world.runtime.applies == applies
    assert [record.state for record in world.ledger.records.values()] == [State.RUNNING, State.RUNNING]
    assert platform_events(world) == [{"from": old, "to": world.ledger.revision}]
    types = {key: world.types(key) for key in before}
    assert set(map(tuple, types.values())) == {("DEPLOY_REQUESTED", "DEPLOY_STARTED", "DEPLOY_SUCCEEDED")}


def test_records_name_commits_that_the_branch_has_after_a_rewrite() -> None:
    world = two_models()
    world.source.rewrite(2)
    world.settle()
    files = world.source.read(None, world.ledger.carried).tree.files
    for key, record in world.ledger.records.items():
        assert record.commit == files[key].commit
        assert record.serving_commit == files[key].commit


def test_what_a_rewrite_changes_adds_and_drops_is_done_to_those_alone() -> None:
    world = two_models()
    world.write("carol", "c", spec("c"))
    world.settle()
    a, b, c = world.key("alice", "a"), world.key("bob", "b"), world.key("carol", "c")
    processes = world.runtime.pids(a)
    world.source.rewind(3)
    world.source.commit(
        {
            spec_path("alice", "a"): spec("a").encode(),
            spec_path("bob", "b"): spec("b", seed=7).encode(),
            spec_path("dora", "d"): spec("d").encode(),
        }
    )
    world.settle()
    assert world.runtime.pids(a) == processes
    assert world.types(b)[-3:] == ["UPDATE_REQUESTED", "DEPLOY_STARTED", "DEPLOY_SUCCEEDED"]
    assert world.ledger.records[c].state is State.DELETED
    living = {record.identity.suffix for record in world.ledger.records.values() if record.state is State.RUNNING}
    assert living == {"a", "b", "d"}


def test_identities_outlive_a_restart_and_further_commits_and_a_second_rewrite() -> None:
    world = two_models()
    before = set(world.ledger.records)
    world.source.rewrite(2)
    world.settle()
    world.restart()
    world.write("alice", "a", spec("a", seed=3))
    world.settle()
    world.source.rewrite(1)
    world.settle()
    world.restart()
    world.settle()
    assert set(world.ledger.records) == before
    assert len(platform_events(world)) == 2


def test_a_file_deleted_and_made_anew_after_a_rewrite_is_a_new_model() -> None:
    world = two_models()
    world.source.rewrite(2)
    world.settle()
    [old] = [key for key, record in world.ledger.records.items() if record.identity.user_id == "alice"]
    world.write("alice", "a", None)
    world.write("alice", "a", spec("a"))
    world.settle()
    new = [key for key, record in world.ledger.records.items() if record.identity.user_id == "alice" and key != old]
    assert world.ledger.records[old].state is State.DELETED
    assert [world.ledger.records[key].state for key in new] == [State.RUNNING]


def test_a_rewrite_seen_by_a_pass_that_died_is_seen_again_by_the_next() -> None:
    world = two_models()
    before = set(world.ledger.records)
    world.source.rewrite(2)
    world.ledger.lose_next_write = True
    with pytest.raises(LedgerUnreachable):
        world.loop.reconcile_once()
    world.restart()
    world.settle()
    assert set(world.ledger.records) == before
    assert len(platform_events(world)) == 1


def test_a_branch_that_is_gone_removes_nothing() -> None:
    world = two_models()
    world.source.rewind(2)
    with pytest.raises(SourceUnreachable, match="the branch is gone"):
        world.loop.reconcile_once()
    assert all(record.state is State.RUNNING for record in world.ledger.records.values())


def test_a_lost_ledger_after_a_rewrite_starts_over_from_history_as_it_is() -> None:
    """Nobody else knows the old names: what runs under them goes, and comes up under those that history gives."""
    world = two_models()
    world.source.rewrite(2)
    world.settle()
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert set(world.ledger.records) == set(world.source.read(None).tree.files)
    assert all(record.state is State.RUNNING for record in world.ledger.records.values())


USERS = st.sampled_from(["alice", "bob"])
SUFFIXES = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 3)


class AnyRewrite(RuleBasedStateMachine):
    """Commits, rewrites and crashes in any order. A path that is there at two passes in a row is the same model."""

    @initialize()
    def begin(self) -> None:
        self.world = World(total_gpus=64)
        self.world.write("carol", "still", spec("still"))
        self.world.write("alice", "a", spec("a"))
        self.world.settle()
        self.made_anew: set[str] = set()
        self.touched: set[str] = set()  # paths whose processes a pass may have replaced
        self.remember()

    @rule(user=USERS, suffix=SUFFIXES, seed=SEEDS, source=st.sampled_from([OTHER, "/private/hf/good"]))
    def somebody_commits(self, user: str, suffix: str, seed: int, source: str) -> None:
        self.world.write(user, suffix, spec(suffix, source, seed=seed))

    @rule(user=USERS, suffix=SUFFIXES)
    def somebody_removes(self, user: str, suffix: str) -> None:
        path = spec_path(user, suffix)
        if path in self.paths():
            self.world.write(user, suffix, None)
            self.made_anew.add(path)

    @rule(data=st.data(), squash=st.booleans())
    def somebody_rewrites(self, data: st.DataObject, squash: bool) -> None:
        self.world.source.rewrite(data.draw(st.integers(1, self.world.source.length)), squash=squash)

    @rule(commits=st.integers(1, 3))
    @precondition(lambda self: self.world.source.length > 5)
    def somebody_takes_commits_back(self, commits: int) -> None:
        before = self.paths()
        self.world.source.rewind(commits)
        self.made_anew |= before.keys() ^ self.paths().keys()

    @rule()
    def the_reconciler_dies_before_it_writes_down(self) -> None:
        self.world.ledger.lose_next_write = True
        paths = self.paths()
        self.touched |= {path for path in paths if paths[path] != self.blobs.get(path)}
        try:
            self.world.loop.reconcile_once()
        except LedgerUnreachable:
            self.world.restart()

    @rule()
    def everything_settles(self) -> None:
        self.world.settle()
        files = self.world.source.read(None, self.world.ledger.carried).tree.files
        assert {file.identity.path: key for key, file in files.items()} == self.living()
        for path, key in self.known.items():
            if path in self.living() and path not in self.made_anew:
                assert self.living()[path] == key
                if self.blobs[path] == self.paths()[path] and path not in self.touched:
                    assert self.world.runtime.pids(key) == self.processes[path]
        self.remember()

    @invariant()
    def a_model_that_nobody_touches_keeps_its_processes(self) -> None:
        assert self.world.runtime.pids(self.known[spec_path("carol", "still")]) == self.still

    def remember(self) -> None:
        self.known, self.blobs = self.living(), self.paths()
        self.made_anew, self.touched = set(), set()
        self.processes = {path: self.world.runtime.pids(key) for path, key in self.known.items()}
        self.still = self.processes[spec_path("carol", "still")]

    def paths(self) -> dict[str, str]:
        return {file.identity.path: file.blob for file in self.world.source.read(None).tree.files.values()}

    def living(self) -> dict[str, str]:
        records = self.world.ledger.load().records
        gone = {State.DELETING, State.DELETED}
        return {record.identity.path: key for key, record in records.items() if record.state not in gone}


AnyRewrite.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyRewrite = AnyRewrite.TestCase
