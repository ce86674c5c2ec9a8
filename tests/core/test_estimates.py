"""How long a load takes: what is remembered, for how long, and what is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import estimates
from reconciler.core.estimates import KEPT_KINDS, KEPT_LOADS, Load, LoadTimes, measured, retry_after_s
from tests.core.values import NOW, later, spec, work

DEMO = work(spec())
LOADS = st.lists(st.builds(Load, st.sampled_from(["/a", "/b", "/ü"]), st.integers(1, 4), st.floats(0.1, 9000)))


def _after(*seconds: float, source: str = "/private/hf/demo", gpus: int = 1) -> LoadTimes:
    return LoadTimes().after(Load(source, gpus, each) for each in seconds)


def test_the_median_of_earlier_loads_is_told_in_whole_seconds() -> None:
    assert _after(40.2, 300, 42).estimate_s(DEMO) == 42
    assert _after(40, 41.5).estimate_s(DEMO) == 41
    assert _after(0.2).estimate_s(DEMO) == 1


def test_nothing_is_told_of_another_source_or_another_number_of_gpus() -> None:
    assert _after(40, gpus=2).estimate_s(DEMO) is None
    assert _after(40, source="/private/hf/other").estimate_s(DEMO) is None


def test_only_the_newest_loads_count() -> None:
    assert _after(*[900.0] * 50, *[30.0] * 6).estimate_s(DEMO) == 30
    assert len(_after(*[900.0] * 50).by_kind["/private/hf/demo", 1]) == KEPT_LOADS


def test_of_too_many_sources_those_loaded_last_are_remembered() -> None:
    many = LoadTimes().after(Load(f"/{number}", 1, 1.0) for number in range(KEPT_KINDS + 1))
    again = many.after([Load("/1", 1, 1.0), Load("/new", 1, 1.0)])
    assert len(again.by_kind) == KEPT_KINDS
    assert ("/1", 1) in again.by_kind
    assert ("/2", 1) not in again.by_kind


@given(LOADS)
def test_what_is_kept_comes_back_equal_and_in_order(loads: list[Load]) -> None:
    known = LoadTimes().after(loads)
    text = known.to_json()
    assert text.isascii()
    assert list(LoadTimes.from_json(text).by_kind.items()) == list(known.by_kind.items())


def test_a_clock_that_was_set_back_measures_nothing() -> None:
    assert measured(DEMO, NOW, NOW - timedelta(hours=1)) is None
    assert measured(DEMO, NOW, NOW + timedelta(days=2)) is None
    assert measured(DEMO, NOW, later(41.26)) == Load("/private/hf/demo", 1, 41.3)


@pytest.mark.parametrize(("estimate", "passed", "told"), [(None, 0, 10), (40, 0, 45), (40, 35, 5), (9000, 0, 600)])
def test_what_a_client_is_told_stays_within_bounds(estimate: int | None, passed: float, told: int) -> None:
    assert retry_after_s(estimate, NOW, later(passed)) == told


@given(st.none() | st.integers(1, 100_000), st.none() | st.floats(-1e6, 1e6))
def test_whatever_the_clock_says_a_client_comes_back_within_ten_minutes(
    estimate: int | None, passed: float | None
) -> None:
    began = None if passed is None else NOW
    assert 1 <= retry_after_s(estimate, began, later(passed or 0)) <= estimates.LONGEST_RETRY_S
