"""Whatever somebody else does in Serve is noticed and put right, and not fought for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from reconciler.core.entities import PLATFORM, App, Event, EventType, State, Workload
from reconciler.errors import LedgerUnreachable, RuntimeUnreachable
from reconciler.testing import MemoryRuntime
from tests.loop.world import BROKEN, GOOD, MISSING, World, spec

DRIFT = {EventType.DRIFT_CORRECTED, EventType.DRIFT_LEFT}
FOREIGN = "an unknown version"


def drift(world: World) -> list[Event]:
    return [event for event in world.ledger.events if event.event_type in DRIFT]


def told(world: World) -> list[tuple[str, str, object, object]]:
    return [(e.model_key, e.payload["what"], e.payload["asked"], e.payload["found"]) for e in drift(world)]


class Failing(MemoryRuntime):
    """A Serve whose answer to an apply is lost, or that does not hear of it."""

    fails: Literal["before", "after"] | None = None

    def apply(self, app: App) -> None:
        if self.fails != "before":
            super().apply(app)
        if self.fails is not None:
            raise RuntimeUnreachable(f"failed {self.fails} it had an effect")


def two_models(runtime: MemoryRuntime | None = None) -> tuple[World, str, str]:
    world = World()
    world.runtime = runtime or world.runtime
    world.restart()
    world.write("alice", "a", spec("a", replicas=2))
    world.write("bob", "b", spec("b"))
    world.settle()
    return world, world.key("alice", "a"), world.key("bob", "b")


def held(world: World) -> dict[str, Workload]:
    return {each.model_key: each for each in world.runtime.held()}


def scale(world: World, key: str, replicas: int) -> None:
    """Be somebody who scales one deployment by hand."""
    after = held(world) | {key: replace(held(world)[key], num_replicas=replicas)}
    world.runtime.tamper(*after.values())


def delete(world: World, key: str) -> None:
    world.runtime.tamper(*(each for name, each in held(world).items() if name != key))


def a_pass(world: World, after_s: float = 5) -> None:
    world.runtime.step()
    world.wait(after_s)
    world.loop.reconcile_once()


def fight(world: World, key: str, times: int = 3) -> None:
    """Have one model scaled by hand and put right, so many times."""
    for _ in range(times):
        scale(world, key, 5)
        a_pass(world)
        assert held(world)[key].num_replicas == 2


def test_a_deployment_deleted_by_hand_is_back_in_one_pass_with_an_event() -> None:
    world, a, b = two_models()
    others = world.runtime.pids(b)
    delete(world, a)
    a_pass(world)
    assert held(world).keys() == {a, b}
    version = held(world)[a].version
    assert told(world) == [(a, "gone", version, None)]
    assert drift(world)[0].payload["message"] == "its deployment was deleted in Serve by somebody else"
    assert drift(world)[0].author == "alice"
    world.settle()
    assert world.record("alice", "a").state is State.RUNNING
    assert world.types(a)[-3:] == ["REPLICAS_LOST", "DRIFT_CORRECTED", "RECOVERED"]
    assert world.runtime.pids(b) == others


@pytest.mark.parametrize("found", [1, 5])
def test_a_deployment_scaled_by_hand_has_its_number_back_in_one_pass_with_an_event(found: int) -> None:
    world, a, _ = two_models()
    before = world.runtime.pids(a)
    scale(world, a, found)
    a_pass(world)
    assert held(world)[a].num_replicas == 2
    assert told(world) == [(a, "replicas", 2, found)]
    world.settle()
    assert len(world.runtime.pids(a)) == 2
    assert world.runtime.pids(a) & before
    assert world.types(a)[-1] == "DRIFT_CORRECTED"


def test_a_version_changed_by_hand_goes_back_to_the_same_processes() -> None:
    world, a, _ = two_models()
    before, version = world.runtime.pids(a), held(world)[a].version
    world.runtime.tamper(*(held(world) | {a: replace(held(world)[a], version=FOREIGN)}).values())
    world.loop.reconcile_once()
    assert told(world) == [(a, "version", version, FOREIGN)]
    world.settle()
    assert world.runtime.pids(a) == before
    assert world.record("alice", "a").state is State.RUNNING


def test_a_deployment_that_nobody_wants_is_taken_out_with_an_event_of_the_platforms() -> None:
    world, a, b = two_models()
    stranger = replace(held(world)[a], model_key="somebody-else", version="x")
    world.runtime.tamper(*held(world).values(), stranger)
    a_pass(world)
    assert held(world).keys() == {a, b}
    assert told(world) == [(PLATFORM, "unknown", None, "x")]
    assert drift(world)[0].payload["deployment"] == "somebody-else"
    assert drift(world)[0].commit == world.ledger.revision


def test_the_application_deleted_by_hand_is_one_event_and_comes_back() -> None:
    world, a, b = two_models()
    world.runtime.delete_app()
    a_pass(world)
    assert held(world).keys() == {a, b}
    assert told(world) == [(PLATFORM, "application", None, None)]
    world.settle()
    assert world.record("alice", "a").state is State.RUNNING


def test_a_root_put_in_by_hand_is_replaced_with_an_event_and_one_of_a_new_setting_without() -> None:
    world, _, _ = two_models()
    world.runtime.replace_root()
    a_pass(world)
    assert told(world) == [(PLATFORM, "root", None, None)]
    world.runtime.root = "another front"
    a_pass(world)
    assert world.runtime.observe().root_is_current
    assert len(drift(world)) == 1


def test_a_ray_head_that_was_started_anew_is_nobodys_drift() -> None:
    world, a, b = two_models()
    world.runtime.crash()
    a_pass(world)
    assert held(world).keys() == {a, b}
    assert drift(world) == []


def die_before_it_is_written_down(world: World) -> None:
    world.ledger.lose_next_write = True
    with pytest.raises(LedgerUnreachable, match="killed"):
        world.loop.reconcile_once()
    world.restart()


def test_drift_that_was_put_right_is_told_although_the_pass_died_before_it_was_written_down() -> None:
    world, a, b = two_models()
    scale(world, a, 5)
    delete(world, b)
    world.wait(5)
    die_before_it_is_written_down(world)
    assert held(world)[a].num_replicas == 2
    assert drift(world) == []
    for _ in range(3):
        a_pass(world)
    assert sorted((key, what, found) for key, what, _, found in told(world)) == sorted(
        [
            (a, "replicas", 5),
            (b, "gone", None),
        ]
    )
    assert [event.payload["corrections"] for event in drift(world)] == [1, 1]
    assert world.ledger.upkeep.intended == ()


def test_passes_that_die_one_after_the_other_lose_no_drift_and_count_it_once() -> None:
    world, a, b = two_models()
    for replicas in (5, None, 4):
        if replicas is None:
            delete(world, b)
        else:
            scale(world, a, replicas)
        world.wait(5)
        die_before_it_is_written_down(world)
    a_pass(world)
    assert [(key, what, found) for key, what, _, found in told(world)] == [
        (a, "replicas", 5),
        (b, "gone", None),
        (a, "replicas", 4),
    ]
    a_pass(world)
    assert len(drift(world)) == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_drift_is_told_once_where_the_apply_that_puts_it_right_fails(when: Literal["before", "after"]) -> None:
    runtime = Failing()
    world, a, _ = two_models(runtime)
    scale(world, a, 5)
    world.wait(5)
    runtime.fails = when
    with pytest.raises(RuntimeUnreachable):
        world.loop.reconcile_once()
    assert held(world)[a].num_replicas == (5 if when == "before" else 2)
    runtime.fails = None
    for _ in range(3):
        a_pass(world)
    assert held(world)[a].num_replicas == 2
    assert told(world) == [(a, "replicas", 2, 5)]


def test_only_a_pass_that_puts_something_right_writes_twice() -> None:
    world, a, _ = two_models()

    def writes() -> int:
        before = world.ledger.writes
        a_pass(world)
        return world.ledger.writes - before

    assert writes() == 1
    world.write("alice", "a", spec("a", replicas=1))
    assert writes() == 1
    assert writes() == 1
    scale(world, a, 5)
    assert writes() == 2
    assert writes() == 1


def test_neither_commits_nor_crashes_nor_a_lost_ledger_are_drift() -> None:
    world, a, _ = two_models()
    for text in (spec("b", replicas=2), spec("b", BROKEN), spec("b", MISSING), "rubbish: [", spec("b", seed=2), None):
        world.write("bob", "b", text)
        world.settle()
        world.wait(61)
        world.settle()
    world.write("bob", "b", spec("b"))
    world.ledger.lose_next_write = True
    with pytest.raises(Exception, match="killed"):
        world.loop.reconcile_once()
    world.settle()
    world.ledger = type(world.ledger)()
    world.restart()
    world.settle()
    assert drift(world) == []
    delete(world, a)
    a_pass(world)
    assert [what for _, what, _, _ in told(world)] == ["gone"], "with a new ledger drift is noticed as before"


def test_what_serve_has_not_taken_up_yet_is_neither_drift_nor_applied_again() -> None:
    world, a, _ = two_models()
    before = held(world)
    world.write("alice", "a", spec("a", replicas=3))
    world.loop.reconcile_once()
    applies = world.runtime.applies
    world.runtime.tamper(*before.values())  # as if Serve still showed what it was asked for before
    world.wait(1.5)
    world.loop.reconcile_once()
    assert (world.runtime.applies, drift(world)) == (applies, [])
    a_pass(world)
    assert held(world)[a].num_replicas == 3
    assert told(world) == [(a, "replicas", 3, 2)]


def test_three_fights_in_five_minutes_are_told_and_the_fourth_waits_with_a_pause_that_grows() -> None:
    world, a, _ = two_models()
    fight(world, a)
    scale(world, a, 5)
    a_pass(world)
    for pause_min in (1, 2, 5, 15, 15):
        last = drift(world)[-1]
        assert last.event_type is EventType.DRIFT_LEFT
        assert last.payload["what"] == "replicas"
        record = world.record("alice", "a")
        assert record.state is State.RUNNING
        assert "scaled in Serve by somebody else, from 2 to 5 replicas; left as it is" in str(record.error_summary)
        assert world.ledger.status is not None
        assert str(world.ledger.status.drift).startswith(f"{a}: it was scaled in Serve")
        applies, events = world.runtime.applies, len(world.ledger.events)
        a_pass(world, pause_min * 60 - 1)
        a_pass(world, 0)
        assert (world.runtime.applies, len(world.ledger.events)) == (applies, events), "it waits, and quietly"
        a_pass(world, 1)
        assert held(world)[a].num_replicas == 2
        assert drift(world)[-1].event_type is EventType.DRIFT_CORRECTED
        assert world.record("alice", "a").error_summary is None
        scale(world, a, 5)
        a_pass(world)


def test_what_holds_for_five_minutes_is_forgotten() -> None:
    world, a, _ = two_models()
    fight(world, a)
    a_pass(world, 301)
    fight(world, a)
    assert {event.event_type for event in drift(world)} == {EventType.DRIFT_CORRECTED}
    assert [event.payload["corrections"] for event in drift(world)] == [1, 2, 3, 1, 2, 3]


def test_a_reconciler_that_is_started_anew_knows_of_the_fights() -> None:
    world, a, _ = two_models()
    for _ in range(3):
        fight(world, a, 1)
        world.restart()
    scale(world, a, 5)
    a_pass(world)
    world.restart()
    a_pass(world)
    assert [event.event_type for event in drift(world)] == [EventType.DRIFT_CORRECTED] * 3 + [EventType.DRIFT_LEFT]
    assert held(world)[a].num_replicas == 5


def test_while_one_model_is_left_as_it_is_found_changes_of_others_are_applied() -> None:
    world, a, b = two_models()
    fight(world, a)
    scale(world, a, 5)
    a_pass(world)
    before = world.runtime.pids(a)
    world.write("bob", "b", spec("b", seed=1))
    world.write("carol", "c", spec("c"))
    world.settle()
    assert world.record("bob", "b").state is State.RUNNING
    assert held(world).keys() == {a, b, world.key("carol", "c")}
    assert held(world)[a].num_replicas == 5
    assert world.runtime.pids(a) >= before

    world.wait(60)
    for _ in range(3):  # its pause has ended; the same fight, by deletion
        delete(world, a)
        a_pass(world)
    assert a not in held(world)
    assert world.record("alice", "a").state is State.FAILED
    assert "deleted in Serve by somebody else" in str(world.record("alice", "a").error_summary)
    world.write("bob", "b", spec("b"))
    world.settle()
    assert world.record("bob", "b").state is State.RUNNING
    assert a not in held(world)
    assert world.types(a).count("REPLICAS_LOST") == 1


def test_a_commit_for_the_model_ends_the_pause_at_once() -> None:
    world, a, _ = two_models()
    fight(world, a)
    delete(world, a)
    a_pass(world)
    assert a not in held(world)
    world.write("alice", "a", "# meant\n" + spec("a", replicas=2))
    a_pass(world)
    assert held(world)[a].num_replicas == 2
    world.settle()
    record = world.record("alice", "a")
    assert (record.state, record.error_summary) == (State.RUNNING, None)


def test_an_unknown_version_cannot_be_asked_for_and_is_put_right_with_the_next_apply() -> None:
    world, a, _ = two_models()

    def change_version() -> None:
        world.runtime.tamper(*(held(world) | {a: replace(held(world)[a], version=FOREIGN)}).values())

    for _ in range(4):
        change_version()
        a_pass(world)
    assert held(world)[a].version == FOREIGN
    assert drift(world)[-1].event_type is EventType.DRIFT_LEFT
    world.write("carol", "c", spec("c"))
    a_pass(world)
    assert held(world)[a].version != FOREIGN
    assert drift(world)[-1].event_type is EventType.DRIFT_CORRECTED
    change_version()
    a_pass(world)
    assert held(world)[a].version == FOREIGN, "the pause goes on"


def test_a_deleted_application_is_left_in_the_end_but_not_for_a_commit() -> None:
    world, _, _ = two_models()
    for _ in range(4):
        world.runtime.delete_app()
        a_pass(world)
    assert world.runtime.app is None
    assert world.ledger.status is not None
    assert "application was deleted in Serve by somebody else; left as it is" in str(world.ledger.status.drift)
    applies = world.runtime.applies
    a_pass(world)
    assert world.runtime.applies == applies
    world.write("carol", "c", spec("c"))
    a_pass(world)
    assert len(held(world)) == 3
    assert world.ledger.status.drift is None


@pytest.mark.parametrize("serves", [False, True])
def test_what_loads_goes_on_while_a_newer_commit_cannot_be_started_at_all(serves: bool) -> None:
    """Nothing takes its place: the newer one's folder is missing. So it is with one that waits for room."""
    world = World()
    if serves:
        world.write("alice", "a", spec("a", seed=1))
        world.settle()
    loads = world.write("alice", "a", spec("a"))
    world.loop.reconcile_once()
    world.write("alice", "a", spec("a", MISSING))
    for _ in range(2):
        world.loop.reconcile_once()
        assert [each.source_path for each in world.runtime.held()] == [GOOD]
        assert world.record("alice", "a").state is State.DEPLOYING
    world.settle()
    record = world.record("alice", "a")
    assert record.state is State.RUNNING
    assert record.serving_commit is not None
    assert record.serving_commit.sha == loads
    assert "missing" in str(record.error_summary)
    assert "ROLLED_BACK" not in world.types(record.identity.model_key)
