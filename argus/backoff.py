"""When a child that died is started again. Pure: the clock comes in as an argument, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STEADY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Lives:
    """How often a child died without having been steady since. `restart_at` is None while it runs."""

    deaths: int = 0
    restart_at: float | None = None


def delay_s(deaths: int) -> float:
    """Give the pause before the next start, in seconds: 0.5, 1, 2, 4, 8, 16, 30, 30 after 1, 2, … deaths in a row."""
    if deaths <= 0:
        return 0.0
    return min(FIRST_DELAY_S * 2.0 ** min(deaths - 1, 16), LONGEST_DELAY_S)


def died(lives: Lives, *, alive_s: float, now: float) -> Lives:
    """Count a death. A child that lived for 60 s or more starts afresh with the shortest pause."""
    deaths = 1 if alive_s >= STEADY_AFTER_S else lives.deaths + 1
    return Lives(deaths, now + delay_s(deaths))


def started(lives: Lives) -> Lives:
    """Say that the child runs again; its deaths stay counted until it has been steady."""
    return Lives(lives.deaths, None)


def due(lives: Lives, now: float) -> bool:
    """Say whether the child is to be started now."""
    return lives.restart_at is not None and now >= lives.restart_at
