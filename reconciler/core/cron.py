"""Five cron fields (minute, hour, day of month, month, day of week), as crontab(5) has them, and the windows they open.

Where neither the day of month nor the day of week begins with `*`, either is enough; 0 and 7 are Sunday. No clock: time
comes in as an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?:\*|([a-z]{3}|[0-9]{1,2})(?:-([a-z]{3}|[0-9]{1,2}))?)(?:/([0-9]{1,2}))?\Z")

_SHIFT = timedelta(hours=3)
"""More than any clock is ever put back."""


@dataclass(frozen=True, slots=True)
class Cron:
    """The minutes at which something begins. Weekdays are 0 (Sunday) to 6.

    `either` says that a day of `days` or of `weekdays` will do; else it has to be of both.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def on(self, day: date) -> bool:
        """Say whether anything begins on this day."""
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (in_month or in_week if self.either else in_month and in_week)


def parse(text: str) -> Cron | str:
    """Read five fields; what is wrong with them where they are none."""
    fields = text.lower().split()
    if len(fields) != len(_FIELDS):
        return "right would be five fields: minute, hour, day of month, month, day of week, e.g. 0 18 * * fri"
    read: list[frozenset[int]] = []
    for field, (name, least, most, names) in zip(fields, _FIELDS, strict=True):
        values = _values(field, least, most, names)
        if values is None:
            example = f" or {names[0]} to {names[-1]}" if names else ""
            return f"the {name} is not *, or numbers from {least} to {most}{example}, with - , and / between them"
        read.append(values)
    minutes, hours, days, months, weekdays = read
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    return Cron(minutes, hours, days, months, frozenset(each % 7 for each in weekdays), either)


def _values(field: str, least: int, most: int, names: tuple[str, ...]) -> frozenset[int] | None:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.match(part)
        if match is None:
            return None
        first, last, step = match.groups()
        begin = least if first is None else _number(first, names, least)
        alone = most if first is None or step is not None else begin
        end = alone if last is None else _number(last, names, least)
        if begin is None or end is None or not least <= begin <= end <= most or step == "0":
            return None
        found |= set(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, names: tuple[str, ...], least: int) -> int | None:
    if text.isdigit():
        return int(text)
    return names.index(text) + least if text in names else None


def last_start(cron: Cron, zone: tzinfo, now: datetime, within: timedelta) -> datetime | None:
    """Give the last beginning at or before `now` (UTC), None where there was none for `within`."""
    return next((start for start in _starts(cron, zone, now, within) if now - within < start <= now), None)


def _starts(cron: Cron, zone: tzinfo, now: datetime, within: timedelta) -> Iterator[datetime]:
    """Give beginnings around `now`, newest first, each as the wall clock of `zone` has it, in UTC.

    A time that the clock skips is as much later; one that it shows twice is meant the first time.
    """
    newest, oldest = (now + _SHIFT).astimezone(zone).date(), (now - within - _SHIFT).astimezone(zone).date()
    starts = []
    for back in range((newest - oldest).days + 1):
        day = newest - timedelta(days=back)
        if not cron.on(day):
            continue
        starts = [
            datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)
            for hour in cron.hours
            for minute in cron.minutes
        ]
        yield from sorted(starts, reverse=True)
