"""What follows from an answer: done, again and when, or given up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.delivery import (
    ENOUGH_REFUSALS,
    FIRST_PAUSE_S,
    LONGEST_ASKED_S,
    LONGEST_PAUSE_S,
    LONGEST_REST_S,
    UNSAID_LIMIT_S,
    Dead,
    Delivered,
    Fate,
    Later,
    Letter,
    Patience,
    Reply,
    asked_pause_s,
    fate,
    is_its_fault,
    rest_s,
    told,
)
from tests.core.values import NOW, later

PATIENCE = Patience()


def letter(attempts: int = 1, since: datetime = NOW) -> Letter:
    return Letter("st-1", 1, "statuses", {}, attempts, since, later(20))


def after(status: int | None, attempts: int = 1, jitter: float = 1.0, **known: Any) -> Fate:
    return fate(letter(attempts), Reply(status, **known), NOW, jitter, PATIENCE)


def pause_s(outcome: Fate) -> float:
    assert isinstance(outcome, Later)
    return (outcome.at - NOW).total_seconds()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_what_was_taken_is_done(status: int) -> None:
    assert after(status) == Delivered()


def test_what_the_other_side_has_already_is_done() -> None:
    assert after(400, is_done=True) == Delivered()


@pytest.mark.parametrize("status", [None, 302, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_be_put_right_is_tried_again(status: int | None) -> None:
    assert isinstance(after(status), Later)
    assert isinstance(after(status, attempts=PATIENCE.attempts - 1), Later)


@pytest.mark.parametrize("status", [400, 405, 413, 415, 422])
def test_what_is_refused_for_what_it_says_is_given_up_soon_but_not_at_once(status: int) -> None:
    assert isinstance(after(status), Later)
    assert isinstance(after(status, attempts=ENOUGH_REFUSALS), Dead)
    assert not is_its_fault(Reply(status))


def test_a_receiver_that_is_gone_is_not_asked_again() -> None:
    assert isinstance(after(410), Dead)


def test_nothing_is_tried_for_ever() -> None:
    assert isinstance(after(500, attempts=PATIENCE.attempts), Dead)
    old = letter(2, since=NOW - PATIENCE.age)
    assert isinstance(fate(old, Reply(500), NOW, 0, PATIENCE), Dead)


def test_with_the_default_patience_a_day_passes_before_something_is_given_up() -> None:
    at, attempts = NOW, 1
    while isinstance(outcome := fate(letter(attempts), Reply(None), at, 0.5, PATIENCE), Later):
        at, attempts = outcome.at, attempts + 1
    assert PATIENCE.age - timedelta(hours=1) <= at - NOW <= PATIENCE.age


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([None, 500, 503]))
def test_pauses_grow_to_an_hour_and_are_never_all_the_same(attempts: int, jitter: float, status: int | None) -> None:
    pause = pause_s(fate(letter(attempts), Reply(status), NOW, jitter, Patience(1000)))
    whole = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempts - 1))
    assert whole / 2 - 1e-3 <= pause <= whole + 1e-3


@pytest.mark.parametrize(
    ("status", "headers", "asked"),
    [
        (503, {"retry-after": "120"}, 120),
        (503, {"retry-after": "Tue, 06 Jan 2026 12:33:00 GMT"}, None),
        (429, {"retry-after": "999999999"}, LONGEST_ASKED_S),
        (429, {}, UNSAID_LIMIT_S),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 900)}, 900),
        (429, {"ratelimit-remaining": "0", "ratelimit-reset": str(int(NOW.timestamp()) + 30)}, 30),
        (429, {"ratelimit-remaining": "0", "ratelimit-reset": "45"}, 45),
        (403, {"x-ratelimit-remaining": "12", "x-ratelimit-reset": "99"}, 0),
        (201, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, 60),
        (201, {"retry-after": "60"}, 0),
        (503, {"retry-after": "soon"}, 0),
        (503, {"retry-after": "²"}, 0),
        (429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "never"}, UNSAID_LIMIT_S),
    ],
)
def test_who_asks_for_a_pause_gets_it(status: int, headers: dict[str, str], asked: float | None) -> None:
    reply = Reply(status, headers=headers)
    if asked is None:
        asked = (datetime.fromisoformat("2026-01-06T12:33:00Z") - NOW).total_seconds()
        assert asked > 0
    assert asked_pause_s(reply, NOW) == pytest.approx(asked, abs=1)
    assert rest_s(reply, 1, NOW, 0) >= asked - 1
    if not reply.is_good:
        assert pause_s(fate(letter(), reply, NOW, 0, PATIENCE)) >= asked - 1


def test_githubs_limit_without_a_header_is_told_from_a_missing_permission() -> None:
    limited = Reply(403, "You have exceeded a secondary rate limit. Please wait a few minutes")
    assert asked_pause_s(limited, NOW) == UNSAID_LIMIT_S
    assert asked_pause_s(Reply(403, "Resource not accessible by personal access token"), NOW) == 0


def test_a_destination_that_fails_rests_longer_each_time_and_one_that_answers_does_not() -> None:
    rests = [rest_s(Reply(None), failures, NOW, 1) for failures in range(1, 12)]
    assert rests == sorted(rests)
    assert rests[0] == 1
    assert rests[-1] == LONGEST_REST_S
    assert rest_s(Reply(201), 0, NOW, 1) == rest_s(Reply(422), 0, NOW, 1) == 0


@given(st.integers(100, 599) | st.none(), st.text(max_size=50), st.text(max_size=30), st.text(max_size=30))
def test_any_answer_has_consequences(status: int | None, said: str, first: str, second: str) -> None:
    headers = {"retry-after": first, "x-ratelimit-remaining": "0", "x-ratelimit-reset": second}
    reply = Reply(status, said, headers)
    outcome = fate(letter(), reply, NOW, 0.5, PATIENCE)
    assert isinstance(outcome, Delivered) == (status is not None and 200 <= status < 300)
    assert 0 <= rest_s(reply, 1, NOW, 0.5) <= LONGEST_ASKED_S
    assert told(reply)
