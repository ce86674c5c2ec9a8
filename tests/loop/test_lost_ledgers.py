"""However often the ledger is lost, and whatever is pushed: what is held stays held, at what ran when that began."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.core.entities import State
from reconciler.names import spec_path
from reconciler.spec import Limits, ServingSpec, SpecRejected, parse
from tests.loop.world import BROKEN, GOOD, MISSING, OTHER, ForgetfulLedger, World, spec

MODELS = [(user, suffix) for user in ("alice", "bob") for suffix in ("a", "b")]
SPECS = st.sampled_from([(GOOD, 1, 1), (GOOD, 2, None), (OTHER, 1, None), (BROKEN, 1, None), (MISSING, 1, None)])
RUBBISH = st.sampled_from(["", "a: [", "model_id: other\n"])
LONGEST_RETRY_S = 61


@dataclass(frozen=True)
class Kept:
    """A model when it was suspended."""

    key: str
    spec: ServingSpec
    pids: frozenset[int]


class AnyLoss(RuleBasedStateMachine):
    @initialize(suspended=st.sets(st.sampled_from(MODELS), min_size=1, max_size=3))
    def begin(self, suspended: set[tuple[str, str]]) -> None:
        self.world = World(total_gpus=64)
        self.kept: dict[tuple[str, str], Kept] = {}
        self.removed: set[tuple[str, str]] = set()  # a file that comes back may be another model then
        for user, suffix in MODELS:
            self.world.write(user, suffix, spec(suffix))
        self.world.settle()
        for model in sorted(suspended):
            self.suspend(model)

    @rule(model=st.sampled_from(MODELS), drawn=SPECS)
    def somebody_commits_a_spec(self, model: tuple[str, str], drawn: tuple[str, int, int | None]) -> None:
        source, replicas, seed = drawn
        self.world.write(*model, spec(model[1], source, replicas, seed=seed))

    @rule(model=st.sampled_from(MODELS))
    def somebody_commits_what_all_began_with(self, model: tuple[str, str]) -> None:
        self.world.write(*model, spec(model[1]))

    @rule(model=st.sampled_from(MODELS), text=RUBBISH)
    def somebody_commits_rubbish(self, model: tuple[str, str], text: str) -> None:
        self.world.write(*model, text)

    @rule(model=st.sampled_from(MODELS))
    def somebody_removes_a_spec(self, model: tuple[str, str]) -> None:
        self.world.write(*model, None)
        self.removed.add(model)

    @rule(model=st.sampled_from(MODELS))
    def a_model_is_suspended(self, model: tuple[str, str]) -> None:
        self.settle()
        self.suspend(model)

    @rule(model=st.sampled_from(MODELS))
    def a_model_is_resumed(self, model: tuple[str, str]) -> None:
        if self.kept.pop(model, None) is not None:
            self.write_rules()

    @rule(commits=st.sampled_from([1, 5, 1000]))
    def every_commit_is_made_anew(self, commits: int) -> None:
        self.world.source.rewrite(min(commits, self.world.source.length))

    @rule(model=st.sampled_from(MODELS), drawn=SPECS)
    def the_ledger_is_lost_under_a_new_commit(self, model: tuple[str, str], drawn: tuple[str, int, int | None]) -> None:
        self.somebody_commits_a_spec(model, drawn)
        self.the_ledger_is_lost()
        self.world.step()

    @rule()
    def the_ledger_is_lost(self) -> None:
        self.world.ledger = ForgetfulLedger()
        self.world.restart()

    @rule()
    def a_pass_and_a_moment_go_by(self) -> None:
        self.world.step()

    @rule()
    def everything_settles(self) -> None:
        self.settle()
        tree = self.tree()
        for model, kept in self.kept.items():
            assert model in self.removed or tree.get(kept.key) == spec_path(*model)
            record = self.world.ledger.records[kept.key]
            assert (record.state, record.spec) == (State.RUNNING, kept.spec)
            newer = self.says(kept.key)
            assert (record.held is not None) == (
                newer is None or (isinstance(newer, ServingSpec) and newer != kept.spec)
            )
        suspended = {spec_path(*model) for model in self.kept}
        for key, path in tree.items():
            says = self.says(key)
            if path not in suspended and isinstance(says, ServingSpec) and says.model_source in {GOOD, OTHER}:
                assert self.world.ledger.records[key].state is State.RUNNING
                assert len(self.world.runtime.pids(key)) == says.num_replicas

    @invariant()
    def who_is_suspended_keeps_name_and_processes(self) -> None:
        for kept in self.kept.values():
            assert self.world.runtime.pids(kept.key) == kept.pids

    def suspend(self, model: tuple[str, str]) -> None:
        key = next((key for key, path in self.tree().items() if path == spec_path(*model)), None)
        if key is None or model in self.kept or not isinstance(says := self.says(key), ServingSpec):
            return
        record = self.world.ledger.records[key]
        if (record.state, record.spec, record.held, record.failure) == (State.RUNNING, says, None, None):
            self.kept[model] = Kept(key, says, self.world.runtime.pids(key))
            self.removed.discard(model)
            self.write_rules()

    def settle(self) -> None:
        for _ in range(2):
            self.world.settle()
            self.world.wait(LONGEST_RETRY_S)
        self.world.settle()

    def write_rules(self) -> None:
        names = "".join(f"    {user}/{suffix}: a benchmark\n" for user, suffix in sorted(self.kept))
        rules = f"suspend:\n  models:\n{names}" if names else ""
        self.world.source.commit({"argus.yaml": rules.encode()})

    def tree(self) -> dict[str, str]:
        files = self.world.source.read(None, self.world.ledger.carried).tree.files
        return {key: file.identity.path for key, file in files.items()}

    def says(self, key: str) -> ServingSpec | SpecRejected | None:
        file = self.world.source.read(None, self.world.ledger.carried).tree.files.get(key)
        if file is None:
            return None
        content = self.world.source.blobs([file.blob], 65536)[file.blob]
        assert isinstance(content, bytes)
        return parse(content, owner=file.identity.user_id, limits=Limits(), suffix=file.identity.suffix)


AnyLoss.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyLoss = AnyLoss.TestCase
