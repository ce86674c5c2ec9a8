"""How models share a cluster, and how they are replaced on it, through whole passes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reconciler.core.entities import Record, State
from reconciler.core.estimates import LoadTimes
from tests.loop.world import BROKEN, GOOD, OTHER, World, spec


def _settled(total_gpus: int, *models: tuple[str, str, str]) -> World:
    world = World(total_gpus=total_gpus)
    for user, suffix, text in models:
        world.write(user, suffix, text)
    world.settle()
    return world


def _started(world: World, record: Record) -> dict[str, object]:
    """Give what the newest DEPLOY_STARTED of a model says."""
    events = world.events(record.identity.model_key)
    return dict(next(event.payload for event in reversed(events) if event.event_type.value == "DEPLOY_STARTED"))


# --- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_with_room_beside_never_leaves_the_model_without_a_process() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen")))
    key = world.key("alice", "qwen")
    world.write("alice", "qwen", spec("qwen", seed=1))
    for _ in range(6):
        world.step()
        assert world.runtime.pids(key)
    assert _started(world, world.record("alice", "qwen"))["surge"] is True


def test_an_update_without_room_beside_says_in_advance_how_long_the_model_will_be_down() -> None:
    world = _settled(1, ("alice", "qwen", spec("qwen")))
    world.write("alice", "qwen", spec("qwen", seed=1))
    world.step()
    record = world.record("alice", "qwen")
    assert record.state is State.DEPLOYING
    assert record.error_summary == "down for about 2 s: no free GPU"
    assert _started(world, record) | {"version": ""} == {
        "version": "",
        "replicas": 1,
        "surge": False,
        "downtime": "down for about 2 s: no free GPU",
        "estimate_s": 2,
    }
    world.settle()
    assert (world.record("alice", "qwen").state, world.record("alice", "qwen").error_summary) == (State.RUNNING, None)


def test_without_an_earlier_load_the_downtime_is_told_without_a_number() -> None:
    world = _settled(1, ("alice", "qwen", spec("qwen")))
    world.write("alice", "qwen", spec("qwen", OTHER))
    world.step()
    assert world.record("alice", "qwen").error_summary == "down while it loads: no free GPU"


def test_a_surge_waits_for_room_with_the_numbers_and_goes_on_when_there_is_some() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen", strategy="surge")), ("bob", "b", spec("b")))
    processes = world.runtime.pids(world.key("alice", "qwen"))
    world.write("alice", "qwen", spec("qwen", strategy="surge", seed=1))
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.error_summary is not None
    assert record.error_summary.startswith(
        "waiting for room: the new version needs 1 GPU beside the one that answers, 0 free; number 1 in line"
    )
    assert world.runtime.pids(record.identity.model_key) == processes
    world.write("bob", "b", None)
    world.settle()
    record = world.record("alice", "qwen")
    assert record.serving_commit == record.commit
    assert record.error_summary is None


def test_a_surge_that_can_never_fit_is_held_at_once_and_says_what_to_do() -> None:
    world = _settled(4, ("alice", "qwen", spec("qwen", gpus=2, strategy="surge")))
    key, applies = world.key("alice", "qwen"), world.runtime.applies
    processes = world.runtime.pids(key)
    world.write("alice", "qwen", spec("qwen", gpus=4, strategy="surge"))
    world.settle()
    world.wait(3600)
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.error_summary is not None
    assert "up to 6, and the whole cluster has 4; set update_strategy: recreate" in record.error_summary
    assert (world.runtime.pids(key), world.runtime.applies) == (processes, applies)
    assert world.types(key).count("DEPLOY_FAILED") == 1
    world.write("alice", "qwen", spec("qwen", gpus=4, strategy="recreate"))
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.serving_commit) == (State.RUNNING, record.commit)


def test_changing_the_update_strategy_alone_restarts_nobody() -> None:
    world = _settled(4, ("alice", "qwen", spec("qwen")))
    key, applies = world.key("alice", "qwen"), world.runtime.applies
    processes = world.runtime.pids(key)
    sha = world.write("alice", "qwen", spec("qwen", strategy="recreate"))
    world.settle()
    record = world.record("alice", "qwen")
    assert (world.runtime.pids(key), world.runtime.applies) == (processes, applies)
    assert record.serving_commit is not None
    assert record.serving_commit.sha == sha
    changed = world.events(key)[-1].payload["changed"]
    assert changed == {"update_strategy": {"from": None, "to": "recreate"}}


def test_recreate_replaces_the_old_version_first_although_there_is_room() -> None:
    world = _settled(4, ("alice", "qwen", spec("qwen", strategy="recreate")))
    world.write("alice", "qwen", spec("qwen", strategy="recreate", seed=1))
    world.step()
    record = world.record("alice", "qwen")
    assert record.error_summary == "down for about 2 s: update_strategy: recreate"
    assert not world.runtime.pids(record.identity.model_key)
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING


@pytest.mark.parametrize("strategy", ["auto", "recreate"])
@pytest.mark.parametrize(
    ("total", "old", "new"),
    [(8, (1, 8), (2, 4)), (8, (2, 1), (2, 4)), (4, (4, 1), (2, 2)), (8, (2, 4), (8, 1)), (6, (3, 1), (3, 2))],
)
def test_whatever_fits_when_the_old_version_is_gone_comes_up_in_the_end(
    total: int, old: tuple[int, int], new: tuple[int, int], strategy: str
) -> None:
    """Serve itself would wait for ever in some of these: it starts the missing number before an old replica goes."""
    world = _settled(total, ("alice", "qwen", spec("qwen", replicas=old[0], gpus=old[1], strategy=strategy)))
    world.write("alice", "qwen", spec("qwen", replicas=new[0], gpus=new[1], strategy=strategy))
    world.settle(40)
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING, record
    assert record.serving_commit == record.commit
    assert len(world.runtime.pids(record.identity.model_key)) == new[0]


def test_a_second_update_waits_for_streams_to_end_rather_than_take_the_model_down() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen")))
    world.runtime.streams_go_on = True
    world.write("alice", "qwen", spec("qwen", seed=1))
    world.settle()
    world.write("alice", "qwen", spec("qwen", seed=2))
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.error_summary is not None
    assert "0 free, 1 being given back; number 1 in line" in record.error_summary
    world.runtime.streams_go_on = False
    world.settle()
    record = world.record("alice", "qwen")
    assert record.serving_commit == record.commit
    assert _started(world, record)["surge"] is True


# --- updates that fail ------------------------------------------------------------------------------------------------


def test_a_failed_update_is_running_with_both_commits_and_the_reason() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen")))
    good = world.record("alice", "qwen").commit
    bad = world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.commit.sha, record.serving_commit) == (State.RUNNING, bad, good)
    assert record.error_summary == "the engine found no weights in its folder"


def test_a_failed_recreate_is_not_tried_again_by_itself_while_the_old_version_answers() -> None:
    world = _settled(1, ("alice", "qwen", spec("qwen")))
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle(10)
    key = world.key("alice", "qwen")
    processes = world.runtime.pids(key)
    assert processes, "the old version is back"
    world.wait(3600)
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, world.runtime.pids(key)) == (State.RUNNING, processes)
    assert world.types(key).count("DEPLOY_FAILED") == 1
    assert record.error_summary is not None
    assert record.error_summary.startswith("the engine found no weights in its folder\n(not tried again by itself")
    world.runtime.broken.clear()
    world.write("alice", "qwen", spec("qwen", BROKEN) + "# try again\n")
    world.settle(10)
    record = world.record("alice", "qwen")
    assert (record.state, record.serving_commit, record.error_summary) == (State.RUNNING, record.commit, None)


def test_a_failed_recreate_is_tried_again_where_there_is_room_for_a_surge_by_then() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen")), ("bob", "b", spec("b")))
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle(10)
    world.runtime.broken.clear()
    world.write("bob", "b", None)
    world.wait(15)
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.serving_commit) == (State.RUNNING, record.commit)
    assert _started(world, record)["surge"] is True


def test_a_newer_commit_takes_over_from_a_load_that_is_under_way() -> None:
    world = _settled(2, ("alice", "qwen", spec("qwen")))
    key = world.key("alice", "qwen")
    processes = world.runtime.pids(key)
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.step()
    newest = world.write("alice", "qwen", spec("qwen", seed=2))
    world.loop.reconcile_once()
    assert world.runtime.app is not None
    assert world.runtime.app.workloads[key].engine_kwargs == {"seed": 2}
    assert world.runtime.pids(key) == processes
    world.settle()
    record = world.record("alice", "qwen")
    assert record.serving_commit is not None
    assert record.serving_commit.sha == newest
    assert "DEPLOY_FAILED" not in world.types(key)


def test_a_newer_commit_takes_over_from_a_first_load_that_fills_the_cluster() -> None:
    world = World(total_gpus=4)
    world.write("alice", "qwen", spec("qwen", replicas=1, gpus=4))
    world.step()
    world.write("alice", "qwen", spec("qwen", replicas=2, gpus=2))
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.serving_commit) == (State.RUNNING, record.commit)
    assert len(world.runtime.pids(record.identity.model_key)) == 2


def test_a_version_that_fails_in_the_pass_that_brings_a_newer_commit_does_not_take_the_old_one_along() -> None:
    world = _settled(3, ("alice", "qwen", spec("qwen", strategy="surge")), ("bob", "b", spec("b")))
    key = world.key("alice", "qwen")
    processes = world.runtime.pids(key)
    world.write("alice", "qwen", spec("qwen", BROKEN, strategy="surge"))
    world.step()
    world.runtime.step()
    world.write("alice", "qwen", spec("qwen", gpus=2, strategy="surge"))  # waits: 1 + 2 + 1 of bob's are 4
    world.settle()
    record = world.record("alice", "qwen")
    assert "DEPLOY_FAILED" in world.types(key)
    assert record.waiting is not None
    assert (record.state, world.runtime.pids(key)) == (State.RUNNING, processes)


# --- scaling ----------------------------------------------------------------------------------------------------------


def test_scaling_up_without_room_waits_while_what_runs_goes_on() -> None:
    world = _settled(4, ("alice", "qwen", spec("qwen", gpus=2)), ("bob", "b", spec("b")))
    key, applies = world.key("alice", "qwen"), world.runtime.applies
    processes = world.runtime.pids(key)
    world.write("alice", "qwen", spec("qwen", replicas=2, gpus=2))
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.error_summary is not None
    assert record.error_summary.startswith("waiting for room: needs 2 GPUs more (1 x 2), 1 free; number 1 in line")
    assert (world.runtime.pids(key), world.runtime.applies) == (processes, applies)
    world.write("bob", "b", None)
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.error_summary, record.serving_commit) == (State.RUNNING, None, record.commit)
    assert processes < world.runtime.pids(key)


# --- the line ---------------------------------------------------------------------------------------------------------


def test_a_small_model_does_not_take_the_room_that_an_earlier_big_one_waits_for() -> None:
    world = _settled(4, ("alice", "runs", spec("runs")))
    world.write("bob", "big", spec("big", gpus=4))
    world.settle()
    world.write("carol", "small", spec("small"))
    world.settle()
    small = world.record("carol", "small")
    assert small.state is State.QUEUED
    assert small.error_summary is not None
    assert small.error_summary.startswith(
        "waiting for room: needs 1 GPU (1 x 1), 3 free, 3 kept for who came first; number 2 in line"
    )
    world.write("alice", "runs", None)
    world.settle()
    assert world.record("bob", "big").state is State.RUNNING
    assert world.record("carol", "small").state is State.QUEUED


def test_a_small_model_passes_where_the_big_one_is_not_delayed_by_it() -> None:
    world = _settled(4, ("alice", "runs", spec("runs", gpus=3)))
    world.write("bob", "big", spec("big", gpus=2))
    world.write("carol", "small", spec("small"))
    world.settle()
    assert world.record("bob", "big").state is State.QUEUED
    assert world.record("carol", "small").state is State.RUNNING
    world.write("alice", "runs", None)
    world.settle()
    assert world.record("bob", "big").state is State.RUNNING


def test_a_commit_that_is_dated_back_gains_no_place() -> None:
    world = _settled(2, ("alice", "runs", spec("runs", gpus=2)))
    world.write("bob", "b", spec("b", gpus=2))
    world.settle()
    world.source.commit(
        {"users/carol/c.yaml": spec("c", gpus=2).encode()}, author="carol", at=datetime(1999, 1, 1, tzinfo=UTC)
    )
    world.settle()
    first, second = world.record("bob", "b").waiting, world.record("carol", "c").waiting
    assert first is not None
    assert second is not None
    assert (first.position, second.position) == (1, 2)


def test_who_waits_keeps_the_place_through_a_change_that_asks_for_no_more() -> None:
    world = _settled(2, ("alice", "runs", spec("runs", gpus=2)))
    world.write("bob", "b", spec("b", gpus=2))
    world.settle()
    world.write("carol", "c", spec("c", gpus=2))
    world.settle()
    world.write("bob", "b", spec("b", gpus=2, seed=1))
    world.settle()
    waits = world.record("bob", "b").waiting
    assert waits is not None
    assert waits.position == 1


def test_a_model_too_big_for_the_cluster_fails_with_the_number_blocks_nobody_and_comes_up_when_it_grows() -> None:
    world = _settled(4, ("bob", "huge", spec("huge", replicas=2, gpus=4)), ("carol", "small", spec("small")))
    huge = world.record("bob", "huge")
    assert huge.state is State.FAILED
    assert huge.error_summary is not None
    assert huge.error_summary.startswith("needs 8 GPUs (2 x 4), and the whole cluster has 4")
    assert world.record("carol", "small").state is State.RUNNING
    world.wait(3600)
    world.settle()
    assert world.types(huge.identity.model_key).count("DEPLOY_FAILED") == 1
    world.runtime.total_gpus = 9
    world.settle()
    assert world.record("bob", "huge").state is State.RUNNING


def test_a_cluster_whose_nodes_have_not_joined_yet_is_waited_for() -> None:
    world = World(total_gpus=0)
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    assert world.record("alice", "qwen").state is State.QUEUED
    world.runtime.total_gpus = 1
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING


def test_nobody_takes_the_room_that_a_surge_under_way_needs() -> None:
    world = _settled(4, ("alice", "qwen", spec("qwen", gpus=2)))
    world.write("alice", "qwen", spec("qwen", gpus=2, seed=1))
    world.step()
    world.write("bob", "b", spec("b", gpus=2))
    world.loop.reconcile_once()
    assert world.record("bob", "b").state is State.QUEUED
    world.settle()
    assert world.record("alice", "qwen").serving_commit == world.record("alice", "qwen").commit
    assert world.record("bob", "b").state is State.RUNNING


# --- others on the same Ray -------------------------------------------------------------------------------------------


def test_gpus_that_others_hold_are_no_room_also_while_a_model_has_not_got_its_own_yet() -> None:
    world = World(total_gpus=8)
    world.runtime.other_gpus = 4
    world.settle()
    world.write("alice", "a", spec("a", gpus=4))
    world.loop.reconcile_once()  # started, and pending: 4 GPUs are used, all of them by others
    world.write("bob", "b", spec("b", gpus=4))
    world.loop.reconcile_once()
    waits = world.record("bob", "b")
    assert waits.state is State.QUEUED
    assert waits.error_summary is not None
    assert "0 free, 4 held by others on this Ray" in waits.error_summary
    world.settle()
    assert (world.record("alice", "a").state, world.record("bob", "b").state) == (State.RUNNING, State.QUEUED)
    world.runtime.other_gpus = 0
    world.settle()
    assert world.record("bob", "b").state is State.RUNNING


def test_a_lost_ledger_on_a_full_cluster_takes_nobody_down() -> None:
    world = _settled(4, ("alice", "a", spec("a", gpus=3)), ("bob", "b", spec("b")))
    world.write("carol", "c", spec("c", gpus=2))
    world.settle()
    keys = [world.key("alice", "a"), world.key("bob", "b")]
    processes, applies = [world.runtime.pids(key) for key in keys], world.runtime.applies
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert ([world.runtime.pids(key) for key in keys], world.runtime.applies) == (processes, applies)
    assert world.record("carol", "c").state is State.QUEUED


# --- how long a load takes --------------------------------------------------------------------------------------------


def test_loads_are_remembered_by_source_and_survive_a_restart() -> None:
    world = _settled(4, ("alice", "a", spec("a")), ("bob", "b", spec("b", OTHER, gpus=2)))
    assert world.ledger.load_times.by_kind == {(GOOD, 1): (2.0,), (OTHER, 2): (2.0,)}
    world.restart()
    world.write("carol", "c", spec("c"))
    world.step()
    assert world.record("carol", "c").load_estimate_s == 2


def test_a_model_that_ran_already_when_the_ledger_was_lost_is_no_load() -> None:
    world = _settled(4, ("alice", "a", spec("a")))
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert world.ledger.load_times == LoadTimes()
