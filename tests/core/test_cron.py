"""Cron fields and the windows that they open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import cron

BERLIN = ZoneInfo("Europe/Berlin")
WEEK = timedelta(days=8)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def last(text: str, now: str, zone: ZoneInfo | None = None, within: timedelta = WEEK) -> datetime | None:
    found = cron.parse(text)
    assert isinstance(found, cron.Cron), found
    return cron.last_start(found, zone or UTC, at(now), within)


def test_the_last_start_is_by_the_zones_wall_clock() -> None:
    assert last("0 18 * * fri", "2026-11-28T00:00:00Z", BERLIN) == at("2026-11-27T17:00:00Z")
    assert last("0 18 * * fri", "2026-07-04T00:00:00Z", BERLIN) == at("2026-07-03T16:00:00Z")
    assert last("0 18 * * 5", "2026-11-27T17:59:59Z") == at("2026-11-20T18:00:00Z")
    assert last("0 18 * * 5", "2026-11-27T18:00:00Z") == at("2026-11-27T18:00:00Z")


def test_an_hour_that_the_clock_skips_or_shows_twice_begins_once() -> None:
    assert last("30 2 * * *", "2026-03-29T12:00:00Z", BERLIN) == at("2026-03-29T01:30:00Z")
    assert last("30 2 * * *", "2026-10-25T12:00:00Z", BERLIN) == at("2026-10-25T00:30:00Z")


def test_of_a_day_of_month_and_a_day_of_week_either_is_enough() -> None:
    assert last("0 0 13 * fri", "2026-11-26T00:00:00Z", within=timedelta(days=20)) == at("2026-11-20T00:00:00Z")
    assert last("0 0 25 * fri", "2026-11-26T00:00:00Z") == at("2026-11-25T00:00:00Z")
    assert last("0 0 */2 * fri", "2026-11-28T00:00:00Z") == at("2026-11-27T00:00:00Z")
    assert last("0 0 */2 * thu", "2026-11-28T00:00:00Z") is None


def test_nothing_is_found_beyond_what_is_looked_at() -> None:
    assert last("0 0 1 1 *", "2026-11-26T00:00:00Z") is None


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "* * * * xyz", "5-1 * * * *",
     "*/0 * * * *", "1,,2 * * * *", "a * * * *", "@daily", "-1 * * * *", "* * * * * *"],
)  # fmt: skip
def test_what_is_no_cron_is_said_to_be_none(text: str) -> None:
    assert isinstance(cron.parse(text), str)


VALUES = st.sampled_from(["*", "*/7", "5", "5-9", "1,20"])
HOURS = st.sampled_from(["*", "*/5", "3", "8-18/2", "0,23"])
WEEKDAYS = st.sampled_from(["*", "mon", "tue-thu", "fri,sun"])


@settings(deadline=None)
@given(
    minute=VALUES,
    hour=HOURS,
    month=st.sampled_from(["*", "11", "jan-jun"]),
    weekday=WEEKDAYS,
    seconds=st.integers(0, 345 * 86_400),
)
def test_it_begins_when_apscheduler_would_begin(minute: str, hour: str, month: str, weekday: str, seconds: int) -> None:
    """Days of the week go by name: APScheduler counts from Monday, crontab(5) from Sunday."""
    now = at("2026-01-20T00:00:00Z") + timedelta(seconds=seconds)
    found = last(f"{minute} {hour} * {month} {weekday}", now.isoformat())
    trigger = CronTrigger(minute=minute, hour=hour, month=month, day_of_week=weekday, timezone=UTC)
    begin = now - WEEK + timedelta(microseconds=1)
    following = trigger.get_next_fire_time(None, begin)
    if found is None:
        assert following is None or following > now
    else:
        assert trigger.get_next_fire_time(None, found) == found
        assert trigger.get_next_fire_time(None, found + timedelta(microseconds=1)) > now
