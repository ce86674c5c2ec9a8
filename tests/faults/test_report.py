"""What an act's row says, and when it is a failure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from faults.report import HEAD, Expectation, Harm, Outcome, Request, Times, Write, outcome, placed, table

TIMES = Times(began=100.0, healed=110.0, ended=114.0)
WHOLE = Request(client=1, began=101.0, first=101.1, ended=103.0, problem=None, gap=0.05, gap_at=102.0)
REFUSED = replace(WHOLE, first=None, ended=101.2, problem="503")
CUT = replace(WHOLE, ended=102.0, problem="it ended early")
AFTER = replace(WHOLE, began=103.0, first=104.0, ended=105.0)
WRITTEN = Write(writer=1, began=101.0, ended=101.1, commit="c" * 40, problem=None)
NOT_WRITTEN = replace(WRITTEN, commit=None, problem="503")
STRICT = Expectation(heal_s=20)


def judge(expected: Expectation | None, *requests: Request, **more: object) -> Outcome:
    return outcome("act", "an act", expected, requests, TIMES, **more)  # type: ignore[arg-type]


def test_an_act_that_nobody_notices_is_as_promised() -> None:
    seen = judge(STRICT, WHOLE, AFTER, writes=[WRITTEN])
    assert (seen.requests, seen.failed, seen.cut, seen.writes, seen.problems) == (2, 0, 0, 1, ())
    assert seen.row == "| an act | 2 | 0 | 0 | 1000 ms | 50 ms |  | 10.0 s | 1 | nothing | as promised |"


@pytest.mark.parametrize(
    ("expected", "request_", "word"),
    [
        (STRICT, REFUSED, "failed"),
        (STRICT, CUT, "failed"),
        (Expectation(20, harm=Harm.REFUSED, next_s=5), REFUSED, None),
        (Expectation(20, harm=Harm.REFUSED, next_s=5), CUT, "cut"),
        (Expectation(20, harm=Harm.CUT, next_s=5), CUT, None),
        (Expectation(20, harm=Harm.CUT, next_s=1), CUT, "waited 2.0 s"),
    ],
)
def test_no_more_harm_is_done_than_was_expected(expected: Expectation, request_: Request, word: str | None) -> None:
    problems = judge(expected, request_, AFTER).problems
    assert problems == () if word is None else word in problems[0]


@pytest.mark.parametrize(
    ("expected", "more", "word"),
    [
        (Expectation(heal_s=9), {}, "took 10 s"),
        (replace(STRICT, gap_times=2.0), {"quiet_gap_s": 0.02}, "a gap of 50 ms, not 40 ms"),
        (replace(STRICT, gap_times=2.0), {"quiet_gap_s": 0.03}, None),
        (replace(STRICT, gap_times=2.0), {}, None),
        (STRICT, {"writes": [NOT_WRITTEN]}, "1 writes were refused"),
        (replace(STRICT, writes_fail=True), {"writes": [NOT_WRITTEN]}, None),
        (STRICT, {"lost": ["tokens"]}, "lost: tokens"),
        (replace(STRICT, loses=frozenset({"tokens"})), {"lost": ["tokens"]}, None),
        (replace(STRICT, loses=frozenset({"tokens"})), {"lost": ["tokens", "model a"]}, "lost: model a"),
        (STRICT, {"trouble": "nothing stands in"}, "nothing stands in"),
    ],
)
def test_each_broken_promise_is_named(expected: Expectation, more: dict[str, object], word: str | None) -> None:
    problems = judge(expected, WHOLE, AFTER, **more).problems
    assert problems == () if word is None else word in problems[0]


def test_silence_is_a_failure_even_of_what_promises_nothing() -> None:
    assert judge(None, REFUSED).problems == ("nobody had an answer",)
    assert judge(None, REFUSED, AFTER).problems == ()


def test_a_client_that_never_came_back_waited_for_ever() -> None:
    other = replace(AFTER, client=2)
    seen = judge(Expectation(20, harm=Harm.CUT, next_s=60), CUT, other)
    assert seen.next_s == math.inf
    assert "never" in seen.row
    assert seen.record["next_s"] is None
    assert seen.problems


def test_only_what_overlaps_an_act_counts_for_it() -> None:
    before = replace(CUT, began=90.0, ended=99.9)
    beyond = replace(CUT, began=114.1, ended=120.0)
    through = replace(WHOLE, began=90.0, ended=130.0)
    seen = judge(STRICT, before, through, beyond)
    assert (seen.requests, seen.problems) == (1, ())


def test_a_gap_before_the_act_is_not_the_acts() -> None:
    assert judge(STRICT, replace(WHOLE, gap=3.0, gap_at=99.0, began=95.0)).gap_s == 0.0


def test_a_client_that_is_kept_waiting_and_answered_at_last_shows() -> None:
    kept = replace(WHOLE, began=80.0, first=112.0, ended=113.0)
    begun_before = replace(WHOLE, began=50.0, first=99.0, ended=103.0)
    seen = judge(STRICT, kept, begun_before)
    assert (seen.wait_s, "| 32 s |" in seen.row) == (32.0, True)


def test_what_cannot_be_played_is_no_failure_and_says_why() -> None:
    seen = Outcome("disk", "a full disk", skipped="takes | root")
    assert not seen.problems
    assert seen.row.count("|") == HEAD.partition("\n")[0].count("|")
    assert "not played: takes / root" in seen.row


def test_every_row_has_the_heads_columns() -> None:
    rows = [judge(STRICT, CUT, writes=[NOT_WRITTEN], lost=["a | b"[:1]]), judge(None, WHOLE)]
    counts = {line.count("|") for line in table(rows).splitlines()}
    assert len(counts) == 1


def test_a_table_takes_the_place_of_the_last_one_and_of_nothing_else() -> None:
    text = "before\n<!-- faults:begin -->\nold\n<!-- faults:end -->\nafter\n"
    new = placed(text, "faults", "new")
    assert new == "before\n<!-- faults:begin -->\nnew\n<!-- faults:end -->\nafter\n"
    assert placed(new, "faults", "new") == new
    with pytest.raises(ValueError, match="faults-ray"):
        placed(text, "faults-ray", "new")
