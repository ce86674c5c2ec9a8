"""When a child that died is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argus.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, Lives, delay_s, died, due, started


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(0, 0), (1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 30), (8, 30), (10_000, 30)]
)
def test_the_pause_doubles_up_to_half_a_minute(deaths: int, seconds: float) -> None:
    assert delay_s(deaths) == seconds


def test_a_child_that_was_steady_for_a_minute_starts_afresh() -> None:
    worn = Lives(deaths=6)
    assert died(worn, alive_s=59.9, now=100.0) == Lives(7, 130.0)
    assert died(worn, alive_s=60.0, now=100.0) == Lives(1, 100.5)


def test_a_child_that_runs_is_never_due() -> None:
    waiting = died(Lives(), alive_s=1, now=10.0)
    assert not due(waiting, 10.4)
    assert due(waiting, 10.5)
    assert not due(started(waiting), 1e9)


@given(st.lists(st.integers(0, 59), min_size=1, max_size=50))
def test_a_crash_loop_never_spins_and_never_stalls(lifetimes: list[int]) -> None:
    lives, now = Lives(), 0.0
    for alive_s in lifetimes:
        now += alive_s
        lives = died(lives, alive_s=alive_s, now=now)
        assert lives.restart_at is not None
        assert FIRST_DELAY_S <= lives.restart_at - now <= LONGEST_DELAY_S
        now = lives.restart_at
        lives = started(lives)
