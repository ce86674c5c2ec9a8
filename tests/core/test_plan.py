"""The ladder: what happens next to one model, and how models share room."""

from __future__ import annotations

from typing import Any

from reconciler.core.desired import Wanted
from reconciler.core.entities import Cluster, Failure, Located, Record, Unusable, Waiting
from reconciler.core.plan import Action, Idle, Keep, Plan, Refuse, Remove, Scale, Settle, Start, Wait, differs, plan
from reconciler.spec import ServingSpec
from tests.core.values import (
    NOW,
    PLATFORM,
    REFUSED,
    commit,
    deployment,
    identity,
    later,
    record,
    running,
    seen,
    spec,
    wanted,
    work,
)

FOLDER = Located("/private/hf/demo")


def _plan(*models: tuple[Wanted, Record | None], gpus: int = 8, folder: Any = FOLDER, now: Any = NOW) -> Plan:
    wants = {want.file.identity.model_key: want for want, _ in models}
    records = {want.file.identity.model_key: known for want, known in models if known is not None}
    folders = dict.fromkeys(wants, folder)
    return plan(wanted=wants, folders=folders, records=records, cluster=Cluster(gpus, gpus), now=now, platform=PLATFORM)


def _action(want: Wanted, known: Record | None = None, **world: Any) -> Action:
    return _plan((want, known), **world).actions[want.file.identity.model_key]


def test_a_new_spec_is_started() -> None:
    want = wanted(spec())
    assert _action(want) == Start(work(spec()), commit())


def test_what_runs_as_wanted_is_kept() -> None:
    assert _action(wanted(spec()), running(spec())) == Keep(work(spec()), commit())


def test_a_commit_that_changes_no_meaning_is_kept_under_its_own_name() -> None:
    newer = commit("c2")
    assert _action(wanted(spec(), by=newer), running(spec())) == Keep(work(spec()), newer)


def test_another_number_of_replicas_scales_the_version_that_runs() -> None:
    bigger = spec(num_replicas=3)
    action = _action(wanted(bigger), running(spec()))
    assert isinstance(action, Scale)
    assert action.workload.version == work(spec()).version
    assert action.workload.num_replicas == 3


def test_other_engine_arguments_start_another_version() -> None:
    changed = spec(engine_kwargs={"max_model_len": 512})
    action = _action(wanted(changed), running(spec()))
    assert isinstance(action, Start)
    assert action.workload.version != work(spec()).version


def test_an_update_surges_where_the_new_version_fits_beside_the_old() -> None:
    old, new = spec(gpus_per_replica=2), spec(gpus_per_replica=2, engine_kwargs={"seed": 1})
    roomy = _action(wanted(new), running(old), gpus=4)
    tight = _action(wanted(new), running(old), gpus=3)
    assert isinstance(roomy, Start)
    assert roomy.workload.surge
    assert isinstance(tight, Start)
    assert not tight.workload.surge


def test_a_rollout_on_its_way_keeps_the_manner_it_was_started_in() -> None:
    one_at_a_time = work(spec(), surge=False)
    action = _action(wanted(spec()), record(spec(), applied=one_at_a_time, applied_commit=commit()))
    assert isinstance(action, Keep)
    assert not action.workload.surge


def test_a_refused_file_holds_the_last_accepted_spec() -> None:
    want = wanted(REFUSED, by=commit("c2"), effective=spec())
    assert isinstance(_action(want, running(spec())), Keep)


def test_a_file_that_never_was_acceptable_runs_nothing() -> None:
    decided = _plan((wanted(REFUSED), None))
    assert list(decided.actions.values()) == [Idle()]
    assert decided.app.workloads == {}


def test_an_absent_file_removes_its_model() -> None:
    known = running(spec())
    decided = plan(
        wanted={},
        folders={},
        records={known.identity.model_key: known},
        cluster=Cluster(8, 8),
        now=NOW,
        platform=PLATFORM,
    )
    assert decided.actions == {known.identity.model_key: Remove()}
    assert decided.app.workloads == {}


def test_a_failed_version_waits_while_the_last_good_one_runs() -> None:
    good, bad = spec(), spec(engine_kwargs={"seed": 1})
    known = running(good, failure=Failure(work(bad).version, 1, later(15), "no weights"))
    assert _action(wanted(bad), known) == Settle(work(good))


def test_a_failed_version_is_tried_again_when_its_time_has_come() -> None:
    bad = spec(engine_kwargs={"seed": 1})
    known = running(spec(), failure=Failure(work(bad).version, 1, later(15), "no weights"))
    assert isinstance(_action(wanted(bad), known, now=later(15)), Start)


def test_a_new_commit_starts_afresh_without_waiting() -> None:
    bad, fixed = spec(engine_kwargs={"seed": 1}), spec(engine_kwargs={"seed": 2})
    known = running(spec(), failure=Failure(work(bad).version, 5, later(900), "no weights"))
    assert isinstance(_action(wanted(fixed), known), Start)


def test_an_unusable_folder_is_refused_and_what_runs_goes_on() -> None:
    new = spec(model_source="/private/hf/other")
    action = _action(wanted(new), running(spec()), folder=Unusable("no config.json"))
    assert isinstance(action, Refuse)
    assert action.workload == work(spec())
    assert action.reason == "no config.json"


def test_what_does_not_fit_waits_with_the_numbers() -> None:
    big, small = identity("bob", "big"), identity("bob", "small")
    runs = wanted(spec("small", gpus_per_replica=4), who=small)
    asks = wanted(spec("big", num_replicas=2, gpus_per_replica=4), who=big)
    action = _plan((asks, None), (runs, running(spec("small", gpus_per_replica=4), small)), gpus=8).actions[
        big.model_key
    ]
    assert action == Wait(
        None, "waiting for room: needs 8 GPUs (2 x 4), 4 free; number 1 in line", Waiting(8, 4, position=1)
    )


def test_an_update_that_does_not_fit_leaves_the_old_version_running() -> None:
    other = identity("bob", "b")
    grows = (wanted(spec(gpus_per_replica=8)), running(spec(gpus_per_replica=2)))
    runs = (wanted(spec("b"), who=other), running(spec("b"), other))
    action = _plan(grows, runs, gpus=8).actions[identity().model_key]
    assert isinstance(action, Wait)
    assert action.workload == work(spec(gpus_per_replica=2))
    assert "the new version needs 6 GPUs more, 5 free" in action.reason


def test_room_is_given_in_the_order_of_the_commits() -> None:
    first, second = identity("bob", "b"), identity("alice", "a")
    early = wanted(spec("b", gpus_per_replica=3), who=first, by=commit("c1", at=NOW))
    late = wanted(spec("a", gpus_per_replica=3), who=second, by=commit("c2", at=later(1)))
    decided = _plan((late, None), (early, None), gpus=4)
    assert isinstance(decided.actions[first.model_key], Start)
    assert isinstance(decided.actions[second.model_key], Wait)


def test_what_runs_is_never_pushed_out_by_what_is_new() -> None:
    old, new = identity("bob", "b"), identity("alice", "a")
    runs = wanted(spec("b", gpus_per_replica=3), who=old, by=commit("c9", at=later(9)))
    asks = wanted(spec("a", gpus_per_replica=3), who=new, by=commit("c1", at=NOW))
    decided = _plan((asks, None), (runs, running(spec("b", gpus_per_replica=3), old)), gpus=4)
    assert isinstance(decided.actions[old.model_key], Keep)
    assert isinstance(decided.actions[new.model_key], Wait)


def test_a_plan_is_applied_only_where_serve_holds_something_else() -> None:
    says: ServingSpec = spec()
    app = _plan((wanted(says), running(says))).app
    assert not differs(app, seen(deployment(work(says))))
    assert differs(app, seen(deployment(work(says, num_replicas=2))))
    assert differs(app, seen(deployment(work(says, version="other"))))
    assert differs(app, seen())
    assert differs(app, seen(deployment(work(says)), deployment(work(says, model_key="stray"))))
