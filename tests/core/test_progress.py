"""What is written down: states and events from what was seen, wanted and started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.core import progress
from reconciler.core.entities import App, Event, EventType, Failure, Health, Observation, Record, State, Waiting
from reconciler.core.estimates import Load
from reconciler.core.plan import Action, Hold, Idle, Keep, Plan, Refuse, Remove, Scale, Settle, Start, Wait
from tests.core.values import (
    DELAYS,
    NOW,
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

KEY = identity().model_key


def _seen(known: Record, what: Observation) -> tuple[Record, tuple[Event, ...]]:
    after = progress.observed({KEY: known}, what, NOW, DELAYS)
    return after.records[KEY], after.events


def _decided(known: Record, action: Action) -> tuple[Record, tuple[Event, ...]]:
    after = progress.decided({KEY: known}, Plan({KEY: action}, App({})), NOW, DELAYS)
    return after.records[KEY], after.events


def _deploying(**fields: Any) -> Record:
    return record(spec(), state=State.DEPLOYING, applied=work(spec()), applied_commit=commit(), **fields)


def _types(events: tuple[Event, ...]) -> list[EventType]:
    return [event.event_type for event in events]


def test_a_model_runs_when_all_its_replicas_answer() -> None:
    after, events = _seen(_deploying(), seen(deployment(work(spec()))))
    assert after.state is State.RUNNING
    assert after.serving == work(spec())
    assert after.serving_commit == commit()
    assert _types(events) == [EventType.DEPLOY_SUCCEEDED]
    assert (events[0].commit, events[0].author) == ("c1", "alice")


def test_a_model_that_goes_on_running_speaks_of_nothing() -> None:
    known = running(spec())
    after, events = _seen(known, seen(deployment(work(spec()))))
    assert (after, events) == (known, ())


def test_a_model_on_its_way_stays_on_its_way() -> None:
    after, events = _seen(_deploying(), seen(deployment(work(spec()), Health.STARTING, running=0)))
    assert after.state is State.DEPLOYING
    assert events == ()


def test_a_report_on_an_older_version_says_nothing_of_the_new_one() -> None:
    after, events = _seen(_deploying(), seen(deployment(work(spec(), version="older"))))
    assert after.state is State.DEPLOYING
    assert events == ()


def test_a_failed_start_is_told_with_the_engines_words_and_the_time_of_the_next_try() -> None:
    after, events = _seen(_deploying(), seen(deployment(work(spec()), Health.FAILED, 0, "no weights found")))
    assert after.state is State.FAILED
    assert after.error_summary == "no weights found"
    assert after.failure == Failure(work(spec()).version, 1, later(15), "no weights found")
    assert after.applied is None
    assert _types(events) == [EventType.DEPLOY_FAILED]
    assert events[0].payload["retry_at"] == "2026-01-06T12:30:15Z"


def test_the_next_failure_of_the_same_version_waits_longer() -> None:
    first = Failure(work(spec()).version, 1, NOW, "no weights")
    after, _ = _seen(_deploying(failure=first), seen(deployment(work(spec()), Health.FAILED, 0, "no weights")))
    assert after.failure == Failure(work(spec()).version, 2, later(60), "no weights")


def test_a_failed_update_goes_back_to_the_version_that_answers() -> None:
    good, bad = work(spec()), work(spec(engine_kwargs={"seed": 1}))
    update = replace(
        running(spec()), applied=bad, applied_commit=commit("c2"), commit=commit("c2"), state=State.DEPLOYING
    )
    failed, _ = _seen(update, seen(deployment(bad, Health.FAILED, 1, "out of memory")))
    back, events = _decided(failed, Settle(good))
    assert back.state is State.RUNNING
    assert back.error_summary == "out of memory"
    assert (back.commit.sha, back.serving_commit) == ("c2", commit("c1"))
    assert _types(events) == [EventType.ROLLED_BACK]
    assert events[0].commit == "c2"
    still, events = _seen(back, seen(deployment(good)))
    assert (still.state, still.error_summary, events) == (State.RUNNING, "out of memory", ())


def test_the_only_version_that_ever_answered_is_no_refuge_when_it_fails() -> None:
    known = replace(running(spec()), state=State.DEPLOYING)
    after, _ = _seen(known, seen(deployment(work(spec()), Health.FAILED, 0, "folder gone")))
    assert after.serving is None


def test_replicas_that_vanish_are_told_and_so_is_their_return() -> None:
    lost, events = _seen(running(spec()), seen())
    assert lost.state is State.DEPLOYING
    assert _types(events) == [EventType.REPLICAS_LOST]
    back, events = _seen(lost, seen(deployment(work(spec()))))
    assert back.state is State.RUNNING
    assert back.error_summary is None
    assert _types(events) == [EventType.RECOVERED]


def test_scaling_ends_when_the_wanted_number_answers() -> None:
    bigger = spec(num_replicas=2)
    started, events = _decided(running(spec()), Scale(work(bigger), commit("c2")))
    assert started.state is State.DEPLOYING
    assert _types(events) == [EventType.SCALE_STARTED]
    halfway, events = _seen(started, seen(deployment(work(bigger), Health.STARTING, running=1)))
    assert (halfway.state, events) == (State.DEPLOYING, ())
    done, events = _seen(halfway, seen(deployment(work(bigger))))
    assert done.state is State.RUNNING
    assert done.serving_commit == commit("c2")
    assert _types(events) == [EventType.SCALE_SUCCEEDED]


def test_a_start_is_told_with_its_commit() -> None:
    after, events = _decided(record(spec()), Start(work(spec()), commit("c3", "bob")))
    assert after.state is State.DEPLOYING
    assert after.applied == work(spec())
    assert _types(events) == [EventType.DEPLOY_STARTED]
    assert (events[0].commit, events[0].author) == ("c3", "bob")


def test_a_start_forgets_the_failure_of_another_version() -> None:
    known = record(spec(), failure=Failure("another", 3, later(900), "old trouble"), error_summary="old trouble")
    after, _ = _decided(known, Start(work(spec()), commit()))
    assert after.failure is None
    assert after.error_summary is None


def test_a_commit_without_meaning_becomes_the_one_that_answers() -> None:
    after, events = _decided(running(spec()), Keep(work(spec()), commit("c2")))
    assert after.serving_commit == commit("c2")
    assert events == ()


def test_a_refused_commit_never_becomes_the_one_that_answers() -> None:
    known = running(spec(), rejection=REFUSED)
    after, _ = _decided(known, Keep(work(spec()), commit("c2")))
    assert after.serving_commit == commit("c1")
    assert after.error_summary == REFUSED.message


def test_a_folder_that_cannot_be_served_counts_as_a_failed_attempt() -> None:
    after, events = _decided(record(spec()), Refuse(None, "v1", commit(), "no config.json"))
    assert after.state is State.FAILED
    assert after.error_summary == "no config.json"
    assert after.failure == Failure("v1", 1, later(15), "no config.json")
    assert _types(events) == [EventType.DEPLOY_FAILED]


def test_waiting_for_room_is_queued_with_the_reason() -> None:
    after, events = _decided(record(spec()), Wait(None, "needs 8 GPUs"))
    assert (after.state, after.error_summary, events) == (State.QUEUED, "needs 8 GPUs", ())


def test_a_model_that_answers_stays_running_while_its_update_waits() -> None:
    after, _ = _decided(running(spec()), Wait(work(spec()), "needs 8 GPUs"))
    assert (after.state, after.error_summary) == (State.RUNNING, "needs 8 GPUs")


def test_a_file_that_never_was_acceptable_is_failed() -> None:
    after, events = _decided(record(rejection=REFUSED), Idle())
    assert (after.state, events) == (State.FAILED, ())


def test_a_removed_model_is_deleting_until_serve_holds_it_no_more() -> None:
    going, events = _decided(running(spec()), Remove())
    assert (going.state, events) == (State.DELETING, ())
    still, _ = _seen(going, seen(replace(deployment(work(spec())), health=Health.STOPPING)))
    still, events = _decided(still, Remove())
    assert (still.state, events) == (State.DELETING, ())
    empty, _ = _seen(still, seen())
    gone, events = _decided(empty, Remove())
    assert gone.state is State.DELETED
    assert _types(events) == [EventType.DELETED]


def test_a_newer_commit_updates_the_record_and_keeps_what_runs() -> None:
    newer = wanted(spec(num_replicas=2), by=commit("c2"))
    after = progress.committed({KEY: running(spec())}, {KEY: newer}, {})[KEY]
    assert after.commit.sha == "c2"
    assert after.spec == spec(num_replicas=2)
    assert after.applied == work(spec())


def test_a_refused_commit_is_on_record_beside_the_spec_that_holds() -> None:
    refused = wanted(REFUSED, by=commit("c2"), effective=spec())
    after = progress.committed({KEY: running(spec())}, {KEY: refused}, {})[KEY]
    assert after.spec == spec()
    assert after.rejection == REFUSED
    assert after.error_summary == REFUSED.message
    assert after.state is State.RUNNING


def test_a_deletion_is_on_record_with_its_own_commit() -> None:
    after = progress.committed({KEY: running(spec())}, {}, {KEY: commit("c9", "bob")})[KEY]
    assert after.commit == commit("c9", "bob")


def test_only_what_users_see_moves_updated_at() -> None:
    known = running(spec())
    more = replace(known, deployment=replace(deployment(work(spec())), message="seen again"))
    louder = replace(known, error_summary="trouble")
    assert progress.stamped({KEY: known}, {KEY: known}, later(5)) == []
    assert progress.stamped({KEY: known}, {KEY: more}, later(5))[0].updated_at == NOW
    assert progress.stamped({KEY: known}, {KEY: louder}, later(5))[0].updated_at == later(5)


def test_a_start_tells_what_it_costs_and_how_long_it_will_take() -> None:
    start = Start(work(spec(), surge=False), commit(), downtime="down for about 45 s: no free GPU", estimate_s=45)
    after, events = _decided(running(spec()), start)
    assert after.error_summary == "down for about 45 s: no free GPU"
    assert (after.since, after.load_estimate_s) == (NOW, 45)
    assert (events[0].payload["downtime"], events[0].payload["estimate_s"]) == (after.error_summary, 45)


def test_a_load_is_measured_from_its_start_to_its_first_answer() -> None:
    known = _deploying(since=later(-41.5))
    after = progress.observed({KEY: known}, seen(deployment(work(spec()))), NOW, DELAYS)
    assert after.loads == (Load("/private/hf/demo", 1, 41.5),)
    assert after.events[0].payload["load_s"] == 41.5
    assert after.records[KEY].since is None


def test_a_load_that_had_to_wait_for_an_old_version_to_go_is_not_measured() -> None:
    known = replace(_deploying(since=later(-600)), applied=work(spec(), surge=False))
    after = progress.observed({KEY: known}, seen(deployment(work(spec()))), NOW, DELAYS)
    assert [event.event_type for event in after.events] == [EventType.DEPLOY_SUCCEEDED]
    assert after.loads == ()


def test_what_cannot_fit_is_failed_with_the_number_and_told_once() -> None:
    hold = Hold(None, commit(), "needs 16 GPUs", Waiting(16, 8, None))
    after, events = _decided(record(spec()), hold)
    assert (after.state, after.error_summary, after.failure) == (State.FAILED, "needs 16 GPUs", None)
    assert _types(events) == [EventType.DEPLOY_FAILED]
    again, events = _decided(after, hold)
    assert (again, events) == (after, ())


def test_a_model_that_lost_its_replicas_while_its_update_waits_tells_so_once() -> None:
    wait = Wait(work(spec()), "needs 8 GPUs", Waiting(8, 0, 1))
    lost, events = _seen(_decided(running(spec()), wait)[0], seen())
    assert _types(events) == [EventType.REPLICAS_LOST]
    still, _ = _decided(lost, wait)
    assert still.state is State.DEPLOYING
    _, events = _seen(still, seen())
    assert events == ()


def test_a_failed_recreate_is_marked_with_the_commit_that_it_was_for() -> None:
    bad = work(spec(engine_kwargs={"seed": 1}), surge=False)
    update = replace(running(spec()), applied=bad, applied_commit=commit("c2"), state=State.DEPLOYING)
    failed, _ = _seen(update, seen(deployment(bad, Health.FAILED, 0, "out of memory")))
    assert failed.failure is not None
    assert failed.failure.recreated_for == "c2"


def test_the_place_in_line_is_kept_by_a_change_that_asks_for_no_more_and_lost_by_one_that_does() -> None:
    waits = record(spec(num_replicas=2), asked_at=NOW, waiting=Waiting(2, 0, 1))
    for says, asked_at in [(spec(num_replicas=2, engine_kwargs={"seed": 1}), NOW), (spec(num_replicas=3), later(9))]:
        newer = wanted(says, by=commit("c2"))
        assert progress.committed({KEY: waits}, {KEY: newer}, {}, later(9))[KEY].asked_at == asked_at
