"""Who may go and who waits: the arithmetic of room, and what holds for every line."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import room
from reconciler.core.actions import Action, Hold, Keep, Scale, Start, Wait
from reconciler.core.desired import Wanted
from reconciler.core.entities import Cluster, Located, Record, Workload
from reconciler.core.line import Need, Room
from reconciler.core.plan import plan
from tests.core.values import (
    NOW,
    PLATFORM,
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


def _work(replicas: int, gpus: int, version: str = "v1") -> Workload:
    return work(spec(num_replicas=replicas, gpus_per_replica=gpus), version=version)


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "together"),
    [
        ((1, 1), (1, 1), 2),
        ((2, 1), (2, 1), 3),
        ((2, 1), (2, 4), 9),
        ((2, 4), (2, 1), 9),
        ((1, 1), (4, 1), 5),
        ((4, 1), (1, 1), 4),
        ((1, 8), (2, 4), 16),
    ],
)
def test_a_surge_takes_what_both_versions_hold_at_its_worst_moment(
    old: tuple[int, int], new: tuple[int, int], together: int
) -> None:
    assert room.surge_peak(_work(*old), _work(*new)) == together


def test_a_model_claims_both_versions_in_a_surge_and_the_larger_one_where_the_old_one_went_first() -> None:
    old, new = _work(2, 2), _work(2, 1, "v2")
    surging = record(spec(), applied=new, applied_commit=commit(), serving=old, serving_commit=commit())
    assert room.claim(surging) == room.Claim(lasting=4, peak=5, replicas=(2, 2))
    recreated = replace(surging, applied=replace(new, surge=False))
    assert room.claim(recreated) == room.Claim(lasting=4, peak=4, replicas=(2, 2)), "it may have to go back"
    assert room.claim(replace(surging, serving=new)) == room.Claim(lasting=2, peak=2, replicas=(1, 1))


def test_a_version_that_failed_leaves_its_model_the_room_to_go_back() -> None:
    failed = record(spec(), applied=None, serving=_work(1, 2), serving_commit=commit())
    assert room.claim(failed).lasting == 2


def _holding(running: int, starting: int, stopping: int) -> Record:
    up = _work(1, 4)
    found = replace(deployment(up), running=running, starting=starting, stopping=stopping)
    return record(spec(), applied=up, applied_commit=commit(), deployment=found)


@pytest.mark.parametrize(
    ("free", "known", "before", "others"),
    [
        (8, _holding(0, 0, 0), None, 0),
        (4, _holding(1, 0, 0), 4, 0),
        (4, _holding(0, 1, 0), 4, 4),  # pending: the 4 that are used are not its own
        (0, _holding(0, 1, 0), 4, 4),  # it has got them
        (0, _holding(1, 0, 0), 4, 4),
        (4, _holding(0, 1, 0), 0, 0),  # nobody else was there: they are its own
        (2, _holding(0, 1, 0), 0, 2),  # somebody else took 2 meanwhile
        (0, _holding(0, 0, 1), 0, 4),
        (0, _holding(0, 1, 0), None, 4),
    ],
)
def test_what_others_hold_is_what_is_used_and_cannot_be_ours(
    free: float, known: Record, before: float | None, others: float
) -> None:
    assert room.others(Cluster(8, free), [known], before) == others


def test_what_ends_its_streams_is_on_its_way_back_and_not_free() -> None:
    assert room.leaving(_holding(1, 0, 2), claimed=4) == (4, 4)
    assert room.leaving(_holding(1, 0, 0), claimed=4) == ()
    assert room.leaving(_holding(0, 0, 1), claimed=0) == (4,)


def test_a_cluster_without_gpus_is_one_that_has_not_come_up_yet() -> None:
    assert not room.too_big(1, 0)
    assert room.too_big(9, 8)
    assert not room.too_big(8, 8)


# --- the line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "held", "gap"),
    [
        (4, {6: 1}, 1),  # when the 6 go there are 7, 3 more than needed: the 1 that is open may be taken
        (4, {3: 2}, 0),  # when one of the two goes there are exactly 4
        (4, {5: 1, 3: 1}, 0),
        (4, {1: 9}, 0),
        (8, {3: 2}, 1),  # not even without all others: they wait for somebody else, and hold nobody up
    ],
)
def test_one_who_waits_keeps_what_may_be_needed_and_no_more(need: int, held: dict[int, int], gap: int) -> None:
    assert Room(free=1, open=1).kept(Need(need, need), held).open == gap


def test_where_two_wait_nobody_passes() -> None:
    first = Room(free=1, open=1).kept(Need(4, 4), {6: 1})
    assert first.kept(Need(3, 3), {6: 1}).open == 0


def test_what_is_only_borrowed_may_come_out_of_what_is_kept() -> None:
    kept = Room(free=3, open=3).kept(Need(4, 4), {1: 1})
    assert not kept.fits(Need(lasting=1, peak=1))
    assert kept.fits(Need(lasting=0, peak=2))
    assert kept.taken(Need(0, 2)).free == 1
    assert not kept.taken(Need(0, 2)).fits(Need(0, 2))


def test_who_wants_nothing_more_always_may_go() -> None:
    assert Room(free=0, open=0).fits(Need(0, 0))


# --- whatever the line ------------------------------------------------------------------------------------------------

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4))
KINDS = st.sampled_from(["new", "runs", "grows", "updates"])
MODELS = st.lists(st.tuples(KINDS, SIZES), max_size=6)


def _model(number: int, kind: str, size: tuple[int, int]) -> tuple[Wanted, Record | None]:
    """Give a model that asked as the `number`-th. One that grows wants a second replica, one that updates more GPUs."""
    who = identity("alice", f"m{number}")
    replicas, gpus = size
    before = {"num_replicas": replicas, "gpus_per_replica": gpus}
    changes: dict[str, dict[str, Any]] = {
        "grows": {"num_replicas": replicas + 1},
        "updates": {"gpus_per_replica": gpus + 1, "engine_kwargs": {"seed": 1}},
    }
    after = {**before, **changes.get(kind, {})}
    want = wanted(spec(who.suffix, **after), who=who, by=commit(f"c{number}", at=later(number)))
    return want, None if kind == "new" else running(spec(who.suffix, **before), who)


def _fits_together(models: list[tuple[Wanted, Record | None]], total: int) -> bool:
    return sum(known.applied.total_gpus for _, known in models if known and known.applied) <= total


@given(kinds=MODELS, total=st.integers(1, 12))
@settings(max_examples=400, deadline=None)
def test_no_line_is_unfair(kinds: list[tuple[str, tuple[int, int]]], total: int) -> None:
    models = [_model(number, kind, size) for number, (kind, size) in enumerate(kinds)]
    if not _fits_together(models, total):
        return
    wants = {want.file.identity.model_key: want for want, _ in models}
    records = {want.file.identity.model_key: known for want, known in models if known}
    decided = plan(
        wanted=wants,
        folders=dict.fromkeys(wants, Located("/private/hf/demo")),
        records=records,
        cluster=Cluster(total, total - sum(room.claim(known).peak for known in records.values())),
        now=NOW,
        platform=PLATFORM,
    )
    held = {key: room.claim(records.get(key)) for key in wants}
    after = {key: room.claim(_after(records.get(key), decided.actions[key])) for key in wants}
    assert sum(claim.peak for claim in after.values()) <= total, "more was started than fits"

    free = total - sum(claim.peak for claim in held.values())
    for place, key in enumerate(wants):
        action = decided.actions[key]
        if isinstance(action, Wait):
            assert action.waiting is not None
            missing = action.waiting.needs_gpus
            behind = list(wants)[place + 1 :]
            taken = sum(after[other].lasting - held[other].lasting for other in behind)
            if action.waiting.position == 1:
                assert missing > free, "it fits, nobody waits in front of it, and it waits"
            for gone in _subsets(chain.from_iterable(held[other].replicas for other in wants if other != key)):
                if missing <= free + gone:
                    assert missing <= free + gone - taken, "one that came later delays it"
        free -= after[key].peak - held[key].peak


def _after(known: Record | None, action: Action) -> Record | None:
    if not isinstance(action, Start | Scale | Keep | Wait | Hold) or action.workload is None:
        return known
    base = known or record(spec())
    return replace(base, applied=action.workload, applied_commit=commit())


def _subsets(replicas: chain[int]) -> set[int]:
    """Give every number of GPUs that is given back when some of the replicas go."""
    all_of_them = list(replicas)
    return {sum(some) for size in range(len(all_of_them) + 1) for some in combinations(all_of_them, size)}


def test_a_plan_of_a_thousand_models_that_wait_is_made_in_one_walk() -> None:
    models = [_model(number, "runs" if number < 500 else "new", (1, 1)) for number in range(1000)]
    wants = {want.file.identity.model_key: want for want, _ in models}
    records = {want.file.identity.model_key: known for want, known in models if known}
    decided = plan(
        wanted=wants,
        folders=dict.fromkeys(wants, Located("/private/hf/demo")),
        records=records,
        cluster=Cluster(500, 0),
        now=NOW,
        platform=PLATFORM,
        deployments=seen().deployments,
    )
    assert Counter(type(action) for action in decided.actions.values()) == {Keep: 500, Wait: 500}
