"""Which names there are, and what is said for each: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.entities import Health, Phase, Record, State, Waiting
from reconciler.core.routing import names
from tests.core.values import NOW, commit, deployment, later, record, spec, work

SPEC = spec()


def test_a_model_on_its_way_out_has_no_name() -> None:
    records = [record(SPEC, state=state) for state in State]
    assert len(names(records, NOW)) == len(State) - 2
    assert names([record(SPEC, state=State.DELETING), record(SPEC, state=State.DELETED)], NOW) == ()


def test_a_name_carries_its_owner_and_when_it_came() -> None:
    known = record(SPEC)
    (name,) = names([known], NOW)
    identity = known.identity
    assert (name.model_id, name.model_key, name.owner) == (identity.model_id, identity.model_key, identity.user_id)
    assert name.created == int(identity.created_at.timestamp())


def test_while_a_version_replaces_another_each_is_stamped_with_its_own_commit() -> None:
    old, new = commit("a" * 40), commit("b" * 40)
    changing = replace(
        record(SPEC, state=State.DEPLOYING),
        serving=work(SPEC, version="v1"),
        serving_commit=old,
        applied=work(SPEC, version="v2"),
        applied_commit=new,
    )
    assert names([changing], NOW)[0].commits == {"v1": old.sha, "v2": new.sha}


def test_the_newest_commit_of_a_version_counts() -> None:
    changing = replace(
        record(SPEC, state=State.DEPLOYING),
        serving=work(SPEC, version="v1"),
        serving_commit=commit("a" * 40),
        applied=work(SPEC, version="v1", num_replicas=2),
        applied_commit=commit("b" * 40),
    )
    assert names([changing], NOW)[0].commits == {"v1": "b" * 40}


def _refused() -> Record:
    return replace(record(SPEC, state=State.FAILED), spec=None, error_summary="line 3: no")


def _waiting() -> Record:
    return record(SPEC, state=State.QUEUED, waiting=Waiting(needs_gpus=9, free_gpus=1, position=1))


def _lost() -> Record:
    return replace(_loading(), serving=work(SPEC), serving_commit=commit())


def _loading(phase: Phase | None = None, **fields: Any) -> Record:
    up = work(SPEC)
    seen = replace(deployment(up, Health.STARTING, running=0), phase=phase)
    return record(SPEC, state=State.DEPLOYING, applied=up, applied_commit=commit(), deployment=seen, **fields)


def _being_replaced() -> Record:
    return replace(_lost(), serving=work(SPEC, version="older"))


@pytest.mark.parametrize(
    ("known", "code", "words"),
    [
        (record(SPEC, state=State.QUEUED), "model_not_ready", "about to start"),
        (_waiting(), "model_not_ready", "waiting for free GPUs"),
        (_loading(), "model_loading", "is still loading"),
        (_loading("scheduling"), "model_loading", "being placed"),
        (_loading("loading"), "model_loading", "is still loading"),
        (_loading("warming_up"), "model_loading", "warming up"),
        (_lost(), "model_loading", "lost its replicas"),
        (_being_replaced(), "model_loading", "is being updated"),
        (replace(_lost(), state=State.RUNNING), "model_loading", "lost its replicas"),
        (record(SPEC, state=State.FAILED), "model_failed", "failed to start"),
        (record(SPEC, state=State.FAILED, waiting=Waiting(9, 8, None)), "model_not_ready", "than the cluster has"),
        (_refused(), "model_not_ready", "spec was refused"),
    ],
)
def test_what_is_said_while_nothing_answers_follows_from_the_state(known: Record, code: str, words: str) -> None:
    unavailable = names([known], NOW)[0].unavailable
    assert unavailable.code == code
    assert words in unavailable.reason
    assert unavailable.retry_after_s > 0


def test_what_is_said_to_strangers_holds_nothing_of_the_owners_errors() -> None:
    failed = replace(record(SPEC, state=State.FAILED), error_summary="no weights in /private/users/alice/secret")
    assert "secret" not in names([failed], NOW)[0].unavailable.reason


def test_a_client_is_told_what_is_left_of_a_load_by_what_such_loads_took() -> None:
    loading = _loading(since=NOW, load_estimate_s=100)
    told = [names([loading], later(passed))[0].unavailable.retry_after_s for passed in (0, 15, 45, 75, 95, 100, 900)]
    assert told == [120, 90, 60, 30, 5, 10, 10]


def test_a_client_of_a_model_that_waits_is_told_at_least_a_minute_and_no_less_than_its_load() -> None:
    quick, slow = (replace(_waiting(), load_estimate_s=seconds) for seconds in (20, 170))
    assert [names([known], NOW)[0].unavailable.retry_after_s for known in (quick, slow)] == [60, 180]


def test_the_table_changes_a_few_times_in_a_load_and_not_at_every_pass() -> None:
    loading = _loading(since=NOW, load_estimate_s=100)
    assert len({names([loading], later(passed))[0].unavailable for passed in range(600)}) == 8
