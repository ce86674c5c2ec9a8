"""The life of a model, through whole passes."""

from __future__ import annotations

import pytest

from reconciler.core.entities import State
from reconciler.errors import LedgerUnreachable, RuntimeUnreachable, SourceUnreachable
from tests.loop.world import BROKEN, MISSING, World, spec


def test_a_spec_becomes_a_running_model_with_its_whole_story_at_its_commit() -> None:
    world = World()
    sha = world.write("alice", "qwen", spec("qwen"))
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.serving_commit is not None
    assert record.serving_commit.sha == sha
    key = record.identity.model_key
    assert world.types(key) == ["DEPLOY_REQUESTED", "DEPLOY_STARTED", "DEPLOY_SUCCEEDED"]
    assert {(event.commit, event.author) for event in world.events(key)} == {(sha, "alice")}


def test_an_empty_repository_is_served_as_an_empty_list() -> None:
    world = World()
    world.settle()
    assert world.runtime.app is not None
    assert world.runtime.app.workloads == {}


def test_a_quiet_repository_is_left_alone() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    applies, events = world.runtime.applies, len(world.ledger.events)
    world.settle()
    assert (world.runtime.applies, len(world.ledger.events)) == (applies, events)


def test_adding_scaling_updating_breaking_and_removing_one_model_leaves_another_alone() -> None:
    world = World()
    world.write("alice", "a", spec("a"))
    world.settle()
    processes = world.runtime.pids(world.key("alice", "a"))
    for text in (spec("b"), spec("b", replicas=2), spec("b", seed=1), spec("b", BROKEN), "model_id: [", None):
        world.write("bob", "b", text)
        world.settle()
        assert world.runtime.pids(world.key("alice", "a")) == processes
    assert world.types(world.key("alice", "a")).count("DEPLOY_STARTED") == 1


def test_scaling_keeps_the_processes_that_run() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    before = world.runtime.pids(world.key("alice", "qwen"))
    sha = world.write("alice", "qwen", spec("qwen", replicas=3))
    world.settle()
    record = world.record("alice", "qwen")
    after = world.runtime.pids(record.identity.model_key)
    assert before < after
    assert len(after) == 3
    assert record.serving_commit is not None
    assert record.serving_commit.sha == sha
    assert world.types(record.identity.model_key)[-3:] == ["SCALE_REQUESTED", "SCALE_STARTED", "SCALE_SUCCEEDED"]


def test_a_bad_spec_leaves_the_last_good_model_serving() -> None:
    world = World()
    good = world.write("alice", "qwen", spec("qwen"))
    world.settle()
    processes = world.runtime.pids(world.key("alice", "qwen"))
    bad = world.write("alice", "qwen", "model_id: qwen\nmodel_source: /etc\n")
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.commit.sha == bad
    assert record.serving_commit is not None
    assert record.serving_commit.sha == good
    assert record.error_summary is not None
    assert "/etc" in record.error_summary
    assert world.runtime.pids(record.identity.model_key) == processes
    assert world.events(record.identity.model_key)[-1].commit == bad


def test_a_bad_file_holds_only_its_own_model() -> None:
    world = World()
    world.write("alice", "a", "not: a spec")
    world.write("bob", "b", spec("b"))
    world.settle()
    assert world.record("bob", "b").state is State.RUNNING
    assert world.record("alice", "a").state is State.FAILED
    assert world.types(world.key("alice", "a")) == ["SPEC_REJECTED"]


def test_a_failed_update_returns_to_the_same_process_and_is_tried_by_the_table() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    processes = world.runtime.pids(world.key("alice", "qwen"))
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.RUNNING
    assert record.error_summary == "the engine found no weights in its folder"
    assert world.runtime.pids(record.identity.model_key) == processes
    world.wait(15)
    world.settle()
    types = world.types(record.identity.model_key)
    assert types.count("DEPLOY_FAILED") == 2
    assert world.runtime.pids(record.identity.model_key) == processes


def test_a_failed_update_is_healed_by_a_revert_without_a_restart() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    processes = world.runtime.pids(world.key("alice", "qwen"))
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle()
    revert = world.write("alice", "qwen", spec("qwen"))
    world.settle()
    record = world.record("alice", "qwen")
    assert (record.state, record.error_summary, record.failure) == (State.RUNNING, None, None)
    assert record.serving_commit is not None
    assert record.serving_commit.sha == revert
    assert world.runtime.pids(record.identity.model_key) == processes


def test_a_first_start_that_fails_is_tried_again_and_comes_up_once_it_can() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen", BROKEN))
    world.settle()
    assert world.record("alice", "qwen").state is State.FAILED
    world.runtime.broken.clear()
    world.wait(15)
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING


def test_a_folder_that_comes_later_is_found_at_the_next_try() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen", MISSING))
    world.settle()
    assert world.record("alice", "qwen").state is State.FAILED
    world.folders.folders.add(MISSING)
    world.wait(15)
    world.settle()
    assert world.record("alice", "qwen").state is State.RUNNING


def test_a_deleted_model_ends_as_deleted_at_the_commit_that_removed_it() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    key = world.key("alice", "qwen")
    sha = world.write("alice", "qwen", None, author="admin")
    world.settle()
    assert world.ledger.records[key].state is State.DELETED
    last = world.events(key)[-2:]
    assert [event.event_type.value for event in last] == ["DELETE_REQUESTED", "DELETED"]
    assert {(event.commit, event.author) for event in last} == {(sha, "admin")}


def test_a_model_made_again_is_another_model() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    first = world.key("alice", "qwen")
    world.write("alice", "qwen", None)
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    second = world.key("alice", "qwen")
    assert first != second
    assert world.ledger.records[first].state is State.DELETED
    assert world.ledger.records[second].state is State.RUNNING


def test_what_waits_for_room_comes_up_when_room_is_made() -> None:
    world = World(total_gpus=4)
    world.write("alice", "big", spec("big", gpus=3))
    world.settle()
    world.write("bob", "big", spec("big", gpus=2))
    world.settle()
    waiting = world.record("bob", "big")
    assert waiting.state is State.QUEUED
    assert waiting.error_summary == "waiting for room: needs 2 GPUs (1 x 2), 1 free; number 1 in line"
    world.write("alice", "big", None)
    world.settle()
    assert world.record("bob", "big").state is State.RUNNING


def test_every_commit_between_two_passes_is_on_record() -> None:
    world = World()
    world.write("bob", "b", spec("b"))
    world.settle()
    shas = [world.write("alice", "qwen", spec("qwen", seed=seed)) for seed in range(4)]
    world.settle()
    requests = [
        event for event in world.events(world.key("alice", "qwen")) if event.event_type.value.endswith("REQUESTED")
    ]
    assert [event.commit for event in requests] == shas


def test_what_was_done_but_not_written_down_is_found_by_the_next_pass() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.ledger.lose_next_write = True
    with pytest.raises(LedgerUnreachable):
        world.loop.reconcile_once()
    assert world.runtime.applies == 1
    world.restart()
    world.settle()
    assert world.runtime.applies == 1
    assert world.types(world.key("alice", "qwen")) == ["DEPLOY_REQUESTED", "DEPLOY_STARTED", "DEPLOY_SUCCEEDED"]


def test_a_lost_ledger_is_rebuilt_without_touching_what_runs() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    key, processes, applies = (
        world.key("alice", "qwen"),
        world.runtime.pids(world.key("alice", "qwen")),
        world.runtime.applies,
    )
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert world.ledger.records[key].state is State.RUNNING
    assert world.runtime.pids(key) == processes
    assert world.runtime.applies == applies


def test_everything_comes_back_when_ray_does() -> None:
    world = World()
    world.write("alice", "a", spec("a"))
    world.write("bob", "b", spec("b", replicas=2))
    world.settle()
    world.runtime.crash()
    world.settle()
    assert world.record("alice", "a").state is State.RUNNING
    assert world.record("bob", "b").state is State.RUNNING
    assert world.types(world.key("alice", "a"))[-2:] == ["REPLICAS_LOST", "RECOVERED"]


def test_nothing_is_planned_while_git_or_serve_is_away() -> None:
    world = World()
    world.write("alice", "qwen", spec("qwen"))
    world.settle()
    before = dict(world.ledger.records)
    world.source.down = True
    with pytest.raises(SourceUnreachable):
        world.loop.reconcile_once()
    world.source.down, world.runtime.down = False, True
    with pytest.raises(RuntimeUnreachable):
        world.loop.reconcile_once()
    assert world.ledger.records == before


def test_a_spec_that_is_a_link_or_a_program_is_refused() -> None:
    world = World()
    path = "users/alice/qwen.yaml"
    world.source.commit({path: b"/etc/passwd"}, author="alice", modes={path: "120000"})
    world.settle()
    record = world.record("alice", "qwen")
    assert record.state is State.FAILED
    assert record.error_summary is not None
    assert "mode 120000" in record.error_summary
