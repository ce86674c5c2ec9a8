"""What becomes of commits: which case each pass opens, advances and closes, and with which verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from reconciler.core.cases import WORST_FIRST, Case, CaseId, Stages, Verdict, stages_of, worst
from reconciler.core.desired import Wanted, Withheld
from reconciler.core.entities import (
    ChangeKind,
    Failure,
    FileChange,
    Held,
    HoldKind,
    Identity,
    Record,
    SpecFile,
    State,
)
from reconciler.core.plan import Action, Keep, Refuse, Remove, Scale, Settle, Start, Wait
from reconciler.core.verdicts import Ask, Seen, judged
from reconciler.spec import Problem, ServingSpec, SpecRejected
from tests.core.values import NOW, commit, identity, later, record, running, spec, wanted, work

KEY, PATH = identity().model_key, identity().path
A, B, C = spec(), spec(num_replicas=2), spec(gpus_per_replica=2)
RUBBISH = SpecRejected(Problem.INVALID, "num_replicas: 'two' is no count", "num_replicas", 3, 15)
AFTERWARDS = later(2)
HEAD = "tip"


def ask(sha: str, says: ServingSpec | SpecRejected | None, *, is_new: bool = False, who: Identity | None = None) -> Ask:
    """Give what commit `sha` did: it wrote a spec or rubbish, or (None) took the file away."""
    who = who or identity()
    after = SpecFile(who, "b", "100644", commit(sha)) if says is not None else None
    kind = ChangeKind.DELETED if says is None else ChangeKind.CREATED if is_new else ChangeKind.MODIFIED
    return Ask(FileChange(kind, who, commit(sha), None, after), says)


def opened(sha: str, **known: Any) -> Case:
    """Give an open case as an earlier pass left it."""
    stages = known.pop("stages", Stages(NOW, seen=NOW, planned=NOW, applied=NOW))
    return replace(Case(commit(sha), PATH, KEY, "alice", False, stages), **known)


def a_pass(
    *asks: Ask,
    cases: Sequence[Case] = (),
    before: Record | None = None,
    wants: Wanted | None = None,
    action: Action | None = None,
    after: Record | None = None,
    rewritten: bool = False,
    on_record: Collection[CaseId] = (),
) -> dict[str, Case]:
    """Judge one pass over one model, and give what changed by commit."""

    def of(value: Any) -> Mapping[str, Any]:
        return {KEY: value} if value is not None else {}

    found = judged(
        cases,
        Seen(asks, of(wants), HEAD, rewritten),
        on_record=on_record,
        before=of(before),
        actions=of(action),
        records=of(after),
        now=later(1),
        applied_at=AFTERWARDS,
    )
    assert len({case.id for case in found}) == len(found)
    return {case.commit.sha: case for case in found}


def verdicts(found: Mapping[str, Case]) -> dict[str, Verdict | None]:
    return {sha: case.verdict for sha, case in found.items()}


def wants(says: ServingSpec | SpecRejected, sha: str, effective: Any = ...) -> Wanted:
    return wanted(says, by=commit(sha), effective=effective)


def starting(says: ServingSpec) -> dict[str, Any]:
    """Give the plan and the record of a pass that starts what `says` asks for."""
    up = record(says, state=State.DEPLOYING, applied=work(says), applied_commit=commit())
    return {"action": Start(work(says), commit()), "after": up}


def kept(says: ServingSpec, **known: Any) -> dict[str, Any]:
    """Give the plan and the record of a pass in which what `says` asks for is there or on its way."""
    return {"action": Keep(work(says), commit()), "after": running(says, **known)}


def test_a_new_spec_is_open_while_it_loads_and_applied_when_it_answers() -> None:
    first = a_pass(ask("c1", A, is_new=True), wants=wants(A, "c1"), **starting(A))
    assert verdicts(first) == {"c1": None}
    assert first["c1"].stages == Stages(NOW, seen=later(1), planned=later(1), applied=AFTERWARDS)
    loading = {**starting(A), "action": Keep(work(A), commit())}
    assert a_pass(cases=[first["c1"]], before=record(A), wants=wants(A, "c1"), **loading) == {}
    done = a_pass(cases=[first["c1"]], before=record(A), wants=wants(A, "c1"), **kept(A))
    assert verdicts(done) == {"c1": Verdict.APPLIED}
    assert done["c1"].stages == replace(first["c1"].stages, ready=later(1))


def test_what_waits_for_room_is_open_and_not_applied() -> None:
    waiting: dict[str, Any] = {"action": Wait(None, "waiting for room"), "after": record(A)}
    found = a_pass(ask("c1", A), wants=wants(A, "c1"), **waiting)
    assert (found["c1"].verdict, found["c1"].stages.planned, found["c1"].stages.applied) == (None, later(1), None)
    assert a_pass(cases=[found["c1"]], before=record(A), wants=wants(A, "c1"), **waiting) == {}


def test_a_refused_file_is_rejected_at_once_with_its_place() -> None:
    found = a_pass(ask("c2", RUBBISH), before=running(A), wants=wants(RUBBISH, "c2", A), **kept(A))
    assert verdicts(found) == {"c2": Verdict.REJECTED}
    case = found["c2"]
    assert (case.message, case.line, case.column) == (RUBBISH.message, 3, 15)
    assert case.stages == Stages(NOW, seen=later(1))


def test_an_edit_of_comments_is_no_change_also_while_what_it_repeats_loads_or_has_failed() -> None:
    failed = record(A, failure=Failure("v", 1, later(60), "no weights"))
    settling: dict[str, Any] = {"action": Settle(None)}
    for before, plan in ((running(A), kept(A)), (record(A), starting(A)), (failed, settling)):
        found = a_pass(ask("c2", A), before=before, wants=wants(A, "c2"), **plan)
        assert verdicts(found) == {"c2": Verdict.NO_CHANGE}


def test_a_repetition_leaves_the_commit_that_is_loading_its_own_verdict() -> None:
    plan = {**starting(A), "action": Keep(work(A), commit())}
    found = a_pass(ask("c2", A), cases=[opened("c1")], before=record(A), wants=wants(A, "c2"), **plan)
    assert verdicts(found) == {"c2": Verdict.NO_CHANGE}
    done = a_pass(cases=[opened("c1")], before=record(A), wants=wants(A, "c2"), **kept(A))
    assert verdicts(done) == {"c1": Verdict.APPLIED}


def test_rubbish_leaves_the_commit_that_is_loading_its_own_verdict() -> None:
    loading = {**starting(A), "action": Keep(work(A), commit())}
    found = a_pass(ask("c2", RUBBISH), cases=[opened("c1")], before=record(A), wants=wants(RUBBISH, "c2", A), **loading)
    assert verdicts(found) == {"c2": Verdict.REJECTED}


def test_a_newer_commit_takes_over_from_one_that_is_still_loading() -> None:
    found = a_pass(ask("c2", C), cases=[opened("c1")], before=record(A), wants=wants(C, "c2"), **starting(C))
    assert verdicts(found) == {"c1": Verdict.SUPERSEDED, "c2": None}
    assert found["c1"].superseded_by == "c2"


def test_of_several_commits_between_two_passes_each_is_superseded_by_the_next() -> None:
    found = a_pass(
        ask("c1", A, is_new=True), ask("c2", B), ask("x", RUBBISH), ask("c3", C), ask("c4", C),
        wants=wants(C, "c4"), **starting(C),
    )  # fmt: skip
    assert verdicts(found) == {
        "c1": Verdict.SUPERSEDED,
        "c2": Verdict.SUPERSEDED,
        "x": Verdict.REJECTED,
        "c3": None,
        "c4": Verdict.NO_CHANGE,
    }
    assert (found["c1"].superseded_by, found["c2"].superseded_by) == ("c2", "c3")
    assert list(found) == ["c1", "c2", "x", "c3", "c4"]


def test_what_rubbish_overtakes_before_any_pass_held_at_it_is_superseded_by_the_rubbish() -> None:
    found = a_pass(ask("c2", C), ask("x", RUBBISH), before=running(A), wants=wants(RUBBISH, "x", A), **kept(A))
    assert verdicts(found) == {"c2": Verdict.SUPERSEDED, "x": Verdict.REJECTED}
    assert found["c2"].superseded_by == "x"


def test_a_change_and_its_revert_between_two_passes_end_superseded_and_applied() -> None:
    found = a_pass(ask("c2", C), ask("c3", A), before=running(A), wants=wants(A, "c3"), **kept(A))
    assert verdicts(found) == {"c2": Verdict.SUPERSEDED, "c3": Verdict.APPLIED}
    assert found["c3"].stages == Stages(NOW, later(1), later(1), later(1), later(1))


def test_scaling_is_applied_when_all_replicas_answer() -> None:
    scaling = replace(running(A), state=State.DEPLOYING)
    found = a_pass(
        ask("c2", B), before=running(A), wants=wants(B, "c2"), action=Scale(work(B), commit("c2")), after=scaling
    )
    assert verdicts(found) == {"c2": None}
    behind = replace(running(A), applied=work(B), state=State.RUNNING)
    keep = Keep(work(B), commit("c2"))
    assert a_pass(cases=[found["c2"]], before=record(B), wants=wants(B, "c2"), action=keep, after=behind) == {}
    done = a_pass(cases=[found["c2"]], before=record(B), wants=wants(B, "c2"), **kept(B))
    assert verdicts(done) == {"c2": Verdict.APPLIED}


@pytest.mark.parametrize(
    ("serving", "rest"),
    [(commit("good-commit-with-a-long-sha"), "commit good-commit- still serves"), (None, "nothing serves")],
)
def test_the_first_failure_is_final_and_says_what_still_serves(serving: Any, rest: str) -> None:
    failure = Failure("v", 1, later(15), "the engine found no weights")
    up = work(A) if serving else None
    after = record(C, state=State.FAILED, failure=failure, serving=up, serving_commit=serving)
    found = a_pass(cases=[opened("c2")], before=record(C), wants=wants(C, "c2"), action=Settle(up), after=after)
    assert verdicts(found) == {"c2": Verdict.FAILED}
    assert found["c2"].message == f"the engine found no weights; {rest}"
    assert found["c2"].stages.ready is None


def test_a_folder_that_cannot_be_served_is_a_failure_that_was_never_applied() -> None:
    after = record(C, state=State.FAILED, failure=Failure("v", 1, later(15), "/private/hf/x does not exist"))
    action = Refuse(None, "v", commit("c1"), "/private/hf/x does not exist")
    found = a_pass(ask("c1", C, is_new=True), wants=wants(C, "c1"), action=action, after=after)
    assert verdicts(found) == {"c1": Verdict.FAILED}
    assert found["c1"].stages.applied is None


def test_a_removal_is_open_while_the_model_drains_and_removed_when_it_is_gone() -> None:
    draining = replace(running(A), state=State.DELETING)
    found = a_pass(ask("d", None), cases=[opened("c1")], before=record(A), action=Remove(), after=draining)
    assert verdicts(found) == {"c1": Verdict.SUPERSEDED, "d": None}
    assert found["d"].stages.applied == AFTERWARDS
    gone = replace(draining, state=State.DELETED)
    done = a_pass(cases=[found["d"]], before=draining, action=Remove(), after=gone)
    assert verdicts(done) == {"d": Verdict.REMOVED}
    assert done["d"].stages.ready == later(1)


def test_a_file_that_came_and_went_between_two_passes_is_superseded_and_removed() -> None:
    found = a_pass(ask("c1", A, is_new=True), ask("d", None))
    assert verdicts(found) == {"c1": Verdict.SUPERSEDED, "d": Verdict.REMOVED}
    assert found["c1"].superseded_by == "d"


def test_rubbish_that_came_and_went_is_rejected_and_removed() -> None:
    found = a_pass(ask("x", RUBBISH, is_new=True), ask("d", None))
    assert verdicts(found) == {"x": Verdict.REJECTED, "d": Verdict.REMOVED}


def test_a_case_that_exists_is_not_opened_again_but_takes_over_all_the_same() -> None:
    """A rewritten branch came back to c1, which was judged long ago, while c2 was loading."""
    found = a_pass(
        ask("c1", A), cases=[opened("c2")], before=record(C), wants=wants(A, "c1"), on_record=[("c1", PATH)],
        rewritten=True, **starting(A),
    )  # fmt: skip
    assert verdicts(found) == {"c2": Verdict.SUPERSEDED}
    assert found["c2"].superseded_by == "c1"


def test_a_branch_that_comes_back_to_what_is_loading_lets_it_load() -> None:
    loading = {**starting(A), "action": Keep(work(A), commit())}
    found = a_pass(
        ask("c1", A), cases=[opened("c1")], before=record(A), wants=wants(A, "c1"), rewritten=True, **loading
    )
    assert found == {}


def test_a_branch_rewritten_without_a_file_supersedes_its_open_commit_and_accuses_no_other_of_removing_it() -> None:
    draining = replace(running(A), state=State.DELETING)
    found = a_pass(
        ask("c1", None), cases=[opened("c1")], before=record(A), action=Remove(), after=draining, rewritten=True
    )
    assert verdicts(found) == {"c1": Verdict.SUPERSEDED}
    assert found["c1"].superseded_by == HEAD


@pytest.mark.parametrize("on_record", [[("c2", PATH)], []])
def test_a_model_that_a_rewritten_branch_lacks_is_removed_by_no_commit_that_is_known(on_record: list[CaseId]) -> None:
    """The ledger knows c2 (an edit of comments) as the model's last commit; c1 is what was loading."""
    draining = replace(running(A), state=State.DELETING)
    found = a_pass(
        ask("c2", None), cases=[opened("c1")], before=record(A), action=Remove(), after=draining, rewritten=True,
        on_record=on_record,
    )  # fmt: skip
    assert verdicts(found) == {"c1": Verdict.SUPERSEDED}
    assert found["c1"].superseded_by == HEAD


def test_a_model_that_a_rewritten_branch_brings_back_is_started_for_the_commit_that_does() -> None:
    removing = replace(opened("d"), removes=True)
    before = replace(running(A), state=State.DELETING)
    found = a_pass(ask("c9", A), cases=[removing], before=before, wants=wants(A, "c9"), rewritten=True, **starting(A))
    assert verdicts(found) == {"d": Verdict.SUPERSEDED, "c9": None}
    assert found["d"].superseded_by == "c9"


def test_a_removal_that_a_rewritten_branch_takes_back_is_superseded() -> None:
    removing = replace(opened("d"), removes=True)
    found = a_pass(
        ask("c1", A), cases=[removing], before=replace(running(A), state=State.DELETING), wants=wants(A, "c1"),
        on_record=[("c1", PATH)], rewritten=True, **starting(A),
    )  # fmt: skip
    assert verdicts(found) == {"d": Verdict.SUPERSEDED}
    assert found["d"].superseded_by == "c1"


def test_an_open_commit_that_a_rewritten_branch_lacks_is_superseded_by_what_stands_at_its_path() -> None:
    anew = replace(identity(), model_key="svc-alice-20260106-123000-ffff")  # the commit that made it was rewritten
    draining = replace(running(A), state=State.DELETING)
    asks = [ask("c9", A, is_new=True, who=anew), ask("c1", None)]
    found = judged(
        [opened("c1")],
        Seen(asks, {anew.model_key: wanted(A, who=anew, by=commit("c9"))}, HEAD, rewritten=True),
        on_record=[],
        before={KEY: record(A)},
        actions={KEY: Remove(), anew.model_key: Start(work(A, anew), commit("c9"))},
        records={KEY: draining, anew.model_key: record(A, anew)},
        now=NOW,
        applied_at=NOW,
    )
    assert [(case.commit.sha, case.verdict, case.superseded_by) for case in found] == [
        ("c1", Verdict.SUPERSEDED, "c9"),
        ("c9", None, None),
    ]


def test_models_are_judged_each_on_its_own() -> None:
    other = identity("bob", "llm")
    says = spec("llm")
    found = judged(
        [],
        Seen(
            [ask("c1", A, is_new=True), ask("c1", RUBBISH, who=other)],
            {KEY: wants(A, "c1"), other.model_key: wanted(RUBBISH, who=other)},
            HEAD,
            rewritten=False,
        ),
        on_record=[],
        before={},
        actions={KEY: Keep(work(A), commit("c1"))},
        records={KEY: running(A), other.model_key: record(says, other)},
        now=NOW,
        applied_at=NOW,
    )
    assert [(case.path, case.verdict) for case in found] == [
        (PATH, Verdict.APPLIED),
        (other.path, Verdict.REJECTED),
    ]


def test_a_message_is_kept_to_a_length() -> None:
    found = a_pass(ask("x", SpecRejected(Problem.INVALID, "x" * 9999)), wants=wants(RUBBISH, "x"))
    assert found["x"].message == "x" * 2000


def test_the_worst_verdict_is_the_commits_whatever_the_order_of_its_files() -> None:
    for some in permutations([Verdict.APPLIED, Verdict.REJECTED, Verdict.NO_CHANGE, Verdict.FAILED], 3):
        assert worst(some) is min(some, key=WORST_FIRST.index)
    assert worst([Verdict.FAILED, None]) is None
    assert worst([]) is Verdict.NO_CHANGE
    assert set(WORST_FIRST) == set(Verdict)


def test_a_commits_stage_is_reached_with_its_last_file() -> None:
    loading = opened("c1", stages=Stages(NOW, later(1), later(2), later(3)))
    refused = opened("c1", stages=Stages(NOW, later(1)), verdict=Verdict.REJECTED)
    ready = opened("c1", stages=Stages(NOW, later(1), later(2), later(9), later(10)), verdict=Verdict.APPLIED)
    assert stages_of([loading, refused, ready]) == Stages(NOW, later(1), later(2), later(9), None)
    assert stages_of([refused, ready]) == ready.stages
    assert stages_of([refused]) == refused.stages


def withheld(kind: HoldKind, sha: str, *, is_gone: bool = False) -> Wanted:
    """Give what is wanted of a model that runs A, while the change of `sha` is held back."""
    held = wants(A, "a")
    return replace(held, spec=Withheld(kind, "why it waits"), newer=commit(sha), is_gone=is_gone)


def runs_a(held_by: str | None = None) -> Record:
    held = Held(HoldKind.FROZEN, "why it waits", NOW, commit(held_by)) if held_by else None
    return running(A, by=commit("a"), held=held)


def keeps() -> dict[str, Any]:
    return {"action": Keep(work(A), commit("a")), "after": replace(runs_a(), commit=commit("a"))}


@pytest.mark.parametrize("kind", [HoldKind.BRAKE, HoldKind.SUSPENDED, HoldKind.FROZEN])
def test_a_change_that_is_held_for_now_stays_open_and_says_why(kind: HoldKind) -> None:
    found = a_pass(ask("b", B), before=runs_a(), wants=withheld(kind, "b"), **keeps())
    assert (found["b"].verdict, found["b"].message) == (None, "why it waits")
    again = a_pass(cases=[found["b"]], before=runs_a("b"), wants=withheld(kind, "b"), **keeps())
    assert again == {}, "nothing is new"


def test_a_change_that_a_policy_holds_is_held_for_good_and_what_loads_goes_on() -> None:
    loading, forbidden = opened("a"), ask("b", B)
    forbidden = replace(forbidden, change=replace(forbidden.change, held="why it waits"))
    found = a_pass(forbidden, cases=[loading], before=runs_a(), wants=wants(A, "a"), **keeps())
    assert verdicts(found) == {"b": Verdict.HELD, "a": Verdict.APPLIED}
    assert found["b"].message == "why it waits"


def test_a_removal_that_is_held_stays_open_and_ends_when_the_model_is_gone() -> None:
    wanted_still = withheld(HoldKind.BRAKE, "b", is_gone=True)
    found = a_pass(ask("b", None), before=runs_a(), wants=wanted_still, **keeps())
    assert (found["b"].verdict, found["b"].message) == (None, "why it waits")
    gone = replace(runs_a(), state=State.DELETED)
    ended = a_pass(cases=[found["b"]], before=runs_a("b"), action=Remove(), after=gone)
    assert (ended["b"].verdict, ended["b"].message) == (Verdict.REMOVED, None)


def test_a_held_change_that_is_let_pass_loses_its_message() -> None:
    case = opened("b", message="why it waits", stages=Stages(NOW, seen=NOW, planned=NOW))
    found = a_pass(cases=[case], before=runs_a("b"), wants=wants(B, "b"), **starting(B))
    assert (found["b"].verdict, found["b"].message) == (None, None)


@pytest.mark.parametrize("says", [A, B, C, RUBBISH])
def test_whatever_comes_after_a_held_change_takes_its_place(says: ServingSpec | SpecRejected) -> None:
    want = wants(says, "c", A) if isinstance(says, SpecRejected) else wants(says, "c")
    found = a_pass(ask("c", says), cases=[opened("b")], before=runs_a("b"), wants=want, **keeps())
    assert (found["b"].verdict, found["b"].superseded_by) == (Verdict.SUPERSEDED, "c")
