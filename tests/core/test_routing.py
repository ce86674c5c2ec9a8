"""Which names there are, and what is said for each: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.core.entities import Record, State
from reconciler.core.routing import names
from tests.core.values import commit, record, spec, work

SPEC = spec()


def test_a_model_on_its_way_out_has_no_name() -> None:
    records = [record(SPEC, state=state) for state in State]
    assert len(names(records)) == len(State) - 2
    assert names([record(SPEC, state=State.DELETING), record(SPEC, state=State.DELETED)]) == ()


def test_a_name_carries_its_owner_and_when_it_came() -> None:
    known = record(SPEC)
    (name,) = names([known])
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
    assert names([changing])[0].commits == {"v1": old.sha, "v2": new.sha}


def test_the_newest_commit_of_a_version_counts() -> None:
    changing = replace(
        record(SPEC, state=State.DEPLOYING),
        serving=work(SPEC, version="v1"),
        serving_commit=commit("a" * 40),
        applied=work(SPEC, version="v1", num_replicas=2),
        applied_commit=commit("b" * 40),
    )
    assert names([changing])[0].commits == {"v1": "b" * 40}


def _refused() -> Record:
    return replace(record(SPEC, state=State.FAILED), spec=None, error_summary="line 3: no")


def _waiting() -> Record:
    return replace(record(SPEC, state=State.QUEUED), error_summary="waiting for room: needs 9 GPUs")


def _lost() -> Record:
    return replace(record(SPEC, state=State.DEPLOYING), serving=work(SPEC), serving_commit=commit())


@pytest.mark.parametrize(
    ("known", "code", "words"),
    [
        (record(SPEC, state=State.QUEUED), "model_not_ready", "about to start"),
        (_waiting(), "model_not_ready", "waiting for free GPUs"),
        (record(SPEC, state=State.DEPLOYING), "model_loading", "still loading"),
        (_lost(), "model_loading", "lost its replicas"),
        (record(SPEC, state=State.RUNNING), "model_loading", "lost its replicas"),
        (record(SPEC, state=State.FAILED), "model_failed", "failed to start"),
        (_refused(), "model_not_ready", "spec was refused"),
    ],
)
def test_what_is_said_while_nothing_answers_follows_from_the_state(known: Record, code: str, words: str) -> None:
    unavailable = names([known])[0].unavailable
    assert unavailable.code == code
    assert words in unavailable.reason
    assert unavailable.retry_after_s > 0


def test_what_is_said_to_strangers_holds_nothing_of_the_owners_errors() -> None:
    failed = replace(record(SPEC, state=State.FAILED), error_summary="no weights in /private/users/alice/secret")
    assert "secret" not in names([failed])[0].unavailable.reason
