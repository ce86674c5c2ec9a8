"""History that is rewritten under a running platform: whoever's path stays keeps key, name and processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.core.entities import PLATFORM, EventType, State
from reconciler.errors import LedgerUnreachable, SourceUnreachable
from reconciler.loop import Reconciler
from reconciler.names import spec_path
from reconciler.shell.ledger import LedgerReader, SqlLedger, open_ledger
from reconciler.shell.source import GitSource
from tests.loop.world import MISSING, OTHER, RULES, World, spec
from tests.repositories import Repository, git


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


@pytest.mark.parametrize("is_known", [True, False], ids=["seen before", "seen by the new ledger only"])
@pytest.mark.parametrize("squash", [True, False], ids=["squashed", "rebased"])
def test_a_lost_ledger_after_a_rewrite_knows_everybody_by_what_runs(squash: bool, is_known: bool) -> None:
    world = two_models()
    before = {key: world.runtime.pids(key) for key in world.ledger.records}
    applies = world.runtime.applies
    world.source.rewrite(2, squash=squash)
    if is_known:
        world.settle()
    for _ in range(2):
        world.ledger = type(world.ledger)()
        world.restart()
        world.settle()
        assert {key: world.runtime.pids(key) for key in world.ledger.records} == before
        assert all(record.state is State.RUNNING for record in world.ledger.records.values())
        assert world.runtime.applies == applies
    assert {case.model_key for case in world.ledger.cases.values()} == before.keys()
    assert {event.model_key for event in world.ledger.events} == before.keys()
    world.write("alice", "a", spec("a", replicas=2))
    world.settle()
    after = {key: world.runtime.pids(key) for key in world.ledger.records}
    assert all(pids <= after[key] for key, pids in before.items())
    assert sorted(map(len, after.values())) == [1, 2]


def test_a_model_that_did_not_run_has_no_name_but_that_of_a_rewritten_history() -> None:
    """Serve knows only of what runs: the others come up under the names that history gives now."""
    world = two_models()
    world.write("carl", "c", spec("c", MISSING))
    world.settle()
    running = {key for key, record in world.ledger.records.items() if record.state is State.RUNNING}
    world.source.rewrite(3)
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert running < world.ledger.records.keys()
    [other] = world.ledger.records.keys() - running
    assert other in world.source.read(None).tree.files


def test_a_forced_push_to_a_real_remote_keeps_everybody_in_a_real_ledger_and_in_fresh_clones(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "specs.git")
    paths = [spec_path("alice", "a"), spec_path("bob", "b")]
    for path, suffix in zip(paths, "ab", strict=True):
        repository.commit({path: spec(suffix).encode()})
    engine = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", 5)
    world = World()

    def start(home: str) -> None:
        source = GitSource(repository.path.as_uri(), home=tmp_path / home, patience_s=60)
        world.loop = Reconciler(
            source, world.folders, world.runtime, world.front, SqlLedger(engine), RULES, lambda: world.now
        )

    start("one")
    world.settle()
    reader = LedgerReader(engine)
    before = {key: world.runtime.pids(key) for key in reader.models(None)}
    old = repository.head()
    tree = git(repository.path, "rev-parse", "main^{tree}")
    for subject in ("squashed", "squashed once more"):
        forced = git(repository.path, "commit-tree", "-m", subject, tree)
        git(repository.path, "update-ref", "refs/heads/main", forced)
        world.settle()
        start(subject)  # a fresh clone, and a process that remembers nothing
        world.settle()
        [*_, (_, event)] = reader.recent_events(PLATFORM, 10)
        assert dict(event.payload) == {"from": old, "to": forced}
        old = forced
    repository.commit({paths[0]: spec("a", replicas=2).encode()})
    world.settle()
    after = {key: world.runtime.pids(key) for key in reader.models(None)}
    assert after.keys() == before.keys()
    assert all(before[key] <= after[key] for key in before)
    assert {record.state for record in reader.models(None).values()} == {State.RUNNING}
    assert len(reader.recent_events(PLATFORM, 10)) == 2
    engine.dispose()


def test_a_shallow_clone_and_a_deeper_one_name_everybody_as_before(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "specs.git")
    for suffix in "abc":
        repository.commit({spec_path("alice", suffix): spec(suffix).encode()})
    git(tmp_path, "clone", "--quiet", "--bare", "--depth", "1", repository.path.as_uri(), "shallow.git")
    shallow = tmp_path / "shallow.git"
    world = World()

    def start(url: Path) -> GitSource:
        source = GitSource(str(url), home=tmp_path)
        world.loop = Reconciler(
            source, world.folders, world.runtime, world.front, world.ledger, RULES, lambda: world.now
        )
        return source

    start(repository.path)
    world.settle()
    before = {key: world.runtime.pids(key) for key in world.ledger.records}
    source = start(shallow)
    assert len(source.read(None).tree.files.keys() & before.keys()) < 3, "the premise: its history tells other names"
    world.settle()
    git(shallow, "fetch", "--quiet", "--unshallow", "origin", "main")
    start(shallow)
    world.settle()
    assert {key: world.runtime.pids(key) for key in world.ledger.records} == before


USERS = st.sampled_from(["alice", "bob"])
SUFFIXES = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 3)


class AnyRewrite(RuleBasedStateMachine):
    """Commits, rewrites, crashes and lost ledgers in any order.

    A path that is there at two passes in a row is the same model.
    """

    @initialize()
    def begin(self) -> None:
        self.world = World(total_gpus=64)
        self.world.write("carol", "still", spec("still"))
        self.world.write("alice", "a", spec("a"))
        self.world.settle()
        self.made_anew: set[str] = set()
        self.touched: set[str] = set()  # paths whose processes a pass may have replaced
        self.is_lost = False
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
    def the_ledger_is_lost(self) -> None:
        self.world.ledger = type(self.world.ledger)()
        self.world.restart()
        self.is_lost = True

    @rule()
    def everything_settles(self) -> None:
        self.world.settle()
        if self.is_lost:  # what ran of these may be in no commit any more
            now = self.paths()
            self.made_anew |= self.touched | {path for path in self.known if now.get(path) != self.blobs[path]}
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
        self.made_anew, self.touched, self.is_lost = set(), set(), False
        self.processes = {path: self.world.runtime.pids(key) for path, key in self.known.items()}
        self.still = self.processes[spec_path("carol", "still")]

    def paths(self) -> dict[str, str]:
        return {file.identity.path: file.blob for file in self.world.source.read(None).tree.files.values()}

    def living(self) -> dict[str, str]:
        records = self.world.ledger.load().records
        gone = {State.DELETING, State.DELETED}
        return {
            record.identity.path: key
            for key, record in records.items()
            # What is taken back with three of four models is braked, and its files are gone all the same.
            if record.state not in gone and not (record.held is not None and record.held.removes)
        }


AnyRewrite.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyRewrite = AnyRewrite.TestCase
