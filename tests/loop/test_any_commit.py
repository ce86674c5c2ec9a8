"""Whatever people push and whatever breaks: each commit gets one verdict for each file, and keeps it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core import notes as form
from reconciler.core.cases import Case, CaseId, Verdict
from reconciler.core.entities import ChangeKind, State
from reconciler.errors import LedgerUnreachable
from reconciler.names import spec_path
from reconciler.ports import Advance
from reconciler.spec import Limits, ServingSpec, parse
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, ForgetfulLedger, World, spec

PATHS = [spec_path(user, suffix) for user in ("alice", "bob") for suffix in ("a", "b")]
SPECS = st.builds(
    lambda source, replicas, comment: (source, replicas, comment),
    st.sampled_from([GOOD, OTHER, BROKEN, MISSING]),
    st.integers(1, 2),
    st.sampled_from(["", "# one\n", "# two\n"]),
)
RUBBISH = st.sampled_from(["", "a: [", "model_id: other\n", "model_id: &x a\n"])
CONTENT = st.one_of(SPECS, SPECS, RUBBISH, st.none())
FILES = st.dictionaries(st.sampled_from(PATHS), CONTENT, min_size=1, max_size=3)


class WatchedLedger(ForgetfulLedger):
    """Writes down which cases were closed, in the order in which that happened; may die before it marks them."""

    lose_next_mark = False

    def __init__(self) -> None:
        super().__init__()
        self.closings: list[CaseId] = []

    def record(self, base: int, advance: Advance) -> int:
        base = super().record(base, advance)
        self.closings += [case.id for case in (*advance.cases, *advance.restored) if case.verdict is not None]
        return base

    def published(self, cases: object) -> None:
        if self.lose_next_mark:
            self.lose_next_mark = False
            raise LedgerUnreachable("killed before it was marked")
        super().published(cases)  # type: ignore[arg-type]  # handed on as it came


class AnyCommit(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(total_gpus=64)
        self.kept: dict[CaseId, Case] = {}
        self.order: list[str] = []
        self.is_continuous = True
        self.begin_anew()

    def begin_anew(self) -> None:
        self.ledger = self.world.ledger = WatchedLedger()
        self.world.restart()

    @initialize()
    def begin(self) -> None:
        self.order.append(self.world.source.commit({"README.md": b"x"}))
        self.world.loop.reconcile_once()

    @rule(commits=st.lists(FILES, min_size=1, max_size=5))
    def somebody_pushes(self, commits: list[dict[str, tuple[str, int, str] | str | None]]) -> None:
        for files in commits:
            self.order.append(self.world.source.commit({path: _text(path, drawn) for path, drawn in files.items()}))

    @rule()
    def a_pass_runs(self) -> None:
        self.world.loop.reconcile_once()

    @rule()
    def a_moment_passes(self) -> None:
        self.world.runtime.step()
        self.world.wait(1)

    @rule()
    def the_reconciler_dies_before_it_writes_down(self) -> None:
        self.ledger.lose_next_write = True
        with suppress(LedgerUnreachable):
            self.world.loop.reconcile_once()
        self.world.restart()

    @rule()
    def the_reconciler_dies_before_it_marks_what_it_published(self) -> None:
        self.ledger.lose_next_mark = True
        self.world.loop.reconcile_once()
        self.ledger.lose_next_mark = False
        self.world.restart()

    @rule(paths=st.sets(st.sampled_from(PATHS)))
    def objects_are_damaged_and_others_mended(self, paths: set[str]) -> None:
        files = self.world.source.read(None, self.ledger.carried).tree.files.values()
        self.world.source.damaged = {file.blob for file in files if file.identity.path in paths}

    @rule()
    def the_reconciler_is_started_anew(self) -> None:
        self.world.restart()

    @rule(down=st.booleans())
    def notes_are_refused_or_taken_again(self, down: bool) -> None:
        self.world.notes.down = down

    @rule(commits=st.integers(1, 4))
    def the_branch_is_rewritten(self, commits: int) -> None:
        if commits < len(self.order):
            self.world.source.rewind(commits)
            self.order.append(self.world.source.commit({"README.md": str(len(self.order)).encode()}))
            self.is_continuous = False

    @rule()
    def the_ledger_is_lost(self) -> None:
        if not self.world.notes.down:
            self.begin_anew()
            on_branch = {change.commit.sha for change in self.world.source.history()}
            told = on_branch & self.world.notes.texts.keys()
            self.kept = {id_: case for id_, case in self.kept.items() if id_[0] in told}
            self.is_continuous = False
            self.world.loop.reconcile_once()

    @rule()
    def everything_settles(self) -> None:
        self.world.notes.down = False
        self.world.source.damaged.clear()
        for _ in range(3):
            self.world.wait(1000)  # longer than any pause, of models and of notes
            self.world.settle()
        self.check_that_each_change_has_its_verdict()
        self.check_that_what_runs_is_right()
        self.check_that_the_notes_say_it()

    def check_that_each_change_has_its_verdict(self) -> None:
        history = self.world.source.history()
        last = {change.identity.model_key: change for change in history}
        for change in history:
            case = self.ledger.cases.get((change.commit.sha, change.identity.path))
            if case is None:
                # Only where two revisions had to be compared, and never the commit that is in force.
                assert not self.is_continuous
                assert change != last[change.identity.model_key] or change.kind is ChangeKind.DELETED
        assert all(case.verdict is not None for case in self.ledger.cases.values())

    def check_that_what_runs_is_right(self) -> None:
        for key, file in self.world.source.read(None, self.ledger.carried).tree.files.items():
            record = self.ledger.records[key]
            content = self.world.source.blobs([file.blob], 65536)[file.blob]
            assert isinstance(content, bytes)
            says = parse(content, owner=file.identity.user_id, limits=Limits(), suffix=file.identity.suffix)
            assert record.commit.sha == file.commit.sha
            if isinstance(says, ServingSpec) and says.model_source in {GOOD, OTHER}:
                assert record.state is State.RUNNING
                assert len(self.world.runtime.pids(key)) == says.num_replicas

    def check_that_the_notes_say_it(self) -> None:
        history = self.world.source.history()
        told = form.restored(self.world.notes.texts, history)
        changes = {(change.commit.sha, change.identity.path) for change in history}
        assert {case.id: _nameless(case) for case in told} == {
            id_: _nameless(case) for id_, case in self.ledger.cases.items() if id_ in changes
        }

    @invariant()
    def a_verdict_never_changes(self) -> None:
        for id_, case in self.kept.items():
            assert _nameless(self.ledger.cases[id_]) == _nameless(case)
        self.kept |= {id_: case for id_, case in self.ledger.cases.items() if case.verdict is not None}

    @invariant()
    def nothing_is_judged_twice(self) -> None:
        assert len(self.ledger.closings) == len(set(self.ledger.closings))

    @invariant()
    def at_most_one_case_of_a_model_is_open(self) -> None:
        keys = [case.model_key for case in self.ledger.cases.values() if case.verdict is None]
        assert len(keys) == len(set(keys))

    @invariant()
    def what_is_superseded_names_a_later_commit_of_the_same_path(self) -> None:
        touched = {(change.commit.sha, change.identity.path) for change in self.world.source.history()}
        for case in self.ledger.cases.values():
            if case.verdict is not Verdict.SUPERSEDED:
                assert case.superseded_by is None
            elif self.is_continuous:
                assert case.superseded_by is not None
                assert (case.superseded_by, case.path) in touched
                assert self.order.index(case.superseded_by) > self.order.index(case.commit.sha)
            else:
                assert case.superseded_by in self.order


def _nameless(case: Case) -> Case:
    """Leave out the model's key: one that was carried over a rewritten history is in the ledger alone (ADR 13)."""
    return replace(case, model_key="")


def _text(path: str, drawn: tuple[str, int, str] | str | None) -> bytes | None:
    if isinstance(drawn, tuple):
        source, replicas, comment = drawn
        return (comment + spec(path.rpartition("/")[2].removesuffix(".yaml"), source, replicas)).encode()
    return drawn.encode() if drawn is not None else None


AnyCommit.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyCommit = AnyCommit.TestCase
