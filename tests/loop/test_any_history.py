"""Whatever people commit and whatever breaks: untouched means untouched, and in the end desired is observed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core.entities import State
from reconciler.errors import LedgerUnreachable, RuntimeUnreachable
from reconciler.spec import Limits, ServingSpec, parse
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, ForgetfulLedger, World, spec

USERS = st.sampled_from(["alice", "bob"])
SUFFIXES = st.sampled_from(["a", "b"])
TEXTS = st.builds(
    lambda source, replicas, seed: (source, replicas, seed),
    st.sampled_from([GOOD, OTHER, BROKEN, MISSING]),
    st.integers(1, 2),
    st.sampled_from([None, 1, 2]),
)
LONGEST_RETRY_S = 61


class AnyHistory(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World(total_gpus=64)
        self.shas = {self.world.write("carol", "still", spec("still"))}
        self.world.settle()
        self.still = self.world.runtime.pids(self.world.key("carol", "still"))

    @rule(user=USERS, suffix=SUFFIXES, text=TEXTS)
    def somebody_commits_a_spec(self, user: str, suffix: str, text: tuple[str, int, int | None]) -> None:
        source, replicas, seed = text
        self.shas.add(self.world.write(user, suffix, spec(suffix, source, replicas, seed=seed)))

    @rule(user=USERS, suffix=SUFFIXES, text=st.sampled_from(["", "a: [", "model_id: other\n", "model_id: &x a\n"]))
    def somebody_commits_rubbish(self, user: str, suffix: str, text: str) -> None:
        self.shas.add(self.world.write(user, suffix, text))

    @rule(user=USERS, suffix=SUFFIXES)
    def somebody_removes_a_spec(self, user: str, suffix: str) -> None:
        self.shas.add(self.world.write(user, suffix, None))

    @rule()
    def a_pass_runs(self) -> None:
        self.world.loop.reconcile_once()

    @rule()
    def a_moment_passes(self) -> None:
        self.world.runtime.step()
        self.world.wait(1)

    @rule()
    def the_reconciler_dies_before_it_writes_down(self) -> None:
        self.world.ledger.lose_next_write = True
        with suppress(LedgerUnreachable):
            self.world.loop.reconcile_once()
        self.world.restart()

    @rule()
    def serve_is_away_for_a_pass(self) -> None:
        self.world.runtime.down = True
        with suppress(RuntimeUnreachable):
            self.world.loop.reconcile_once()
        self.world.runtime.down = False

    @rule()
    def the_ledger_is_lost(self) -> None:
        self.world.ledger = ForgetfulLedger()
        self.world.restart()

    @rule()
    def everything_settles(self) -> None:
        for _ in range(3):
            self.world.wait(LONGEST_RETRY_S)
            self.world.settle()
        files = self.world.source.read(None).tree.files
        for key, file in files.items():
            record = self.world.ledger.records[key]
            assert record.commit.sha == file.commit.sha
            content = self.world.source.blobs([file.blob], 65536)[file.blob]
            assert isinstance(content, bytes)
            says = parse(content, owner=file.identity.user_id, limits=Limits(), suffix=file.identity.suffix)
            if isinstance(says, ServingSpec) and says.model_source in {GOOD, OTHER}:
                assert record.state is State.RUNNING
                assert record.serving_commit is not None
                assert record.serving_commit.sha == file.commit.sha
                assert len(self.world.runtime.pids(key)) == says.num_replicas
                assert record.error_summary is None
            else:
                assert record.error_summary
        assert self._held().keys() <= files.keys()

    @invariant()
    def a_model_that_nobody_touches_keeps_its_processes(self) -> None:
        assert self.world.runtime.pids(self.world.key("carol", "still")) == self.still

    @invariant()
    def every_event_names_a_commit_of_the_repository(self) -> None:
        assert {event.commit for event in self.world.ledger.events} <= self.shas

    def _held(self) -> Mapping[str, object]:
        assert self.world.runtime.app is not None
        return self.world.runtime.app.workloads


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyHistory = AnyHistory.TestCase
