"""Which reconciler may act: one lease, and when another may take it. Times are seconds of the caller's own clock.

No two machines' clocks are compared, and no wall clock is read: who waits measures, by its own clock, for how long the
lease has shown no sign of life. So clocks that differ, jump or are set do no harm; only their pace counts, and
`VALID_SHARE` leaves a quarter for that.
"""

from __future__ import annotations

from dataclasses import dataclass

VALID_SHARE = 0.75
"""Part of the patience after which a holder that could not renew counts itself out. The others wait for all of it."""

RENEW_SHARE = 0.2
"""Part of the patience after which a holder renews: three renewals may fail before it counts itself out."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease as the ledger has it.

    `token` grows with every change of hands and never shrinks; `renewals` grows with every sign of life. `holder` is
    None where it was given back. `patience_s` is the holder's word on how long its silence is to be borne.
    """

    token: int
    holder: str | None
    renewals: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """A lease, and since when it was seen to be just so."""

    lease: Lease
    since: float


def sighted(last: Sighting | None, lease: Lease, now: float) -> Sighting:
    """Give what is known after `lease` was read; `now` is a moment after the reading, never before it."""
    return last if last is not None and last.lease == lease else Sighting(lease, now)


def may_be_taken(seen: Sighting, now: float) -> bool:
    """Say whether somebody else may take the lease: it was given back, or its holder has been silent for too long."""
    return seen.lease.holder is None or now - seen.since >= seen.lease.patience_s


def is_valid(renewed_at: float, patience_s: float, now: float) -> bool:
    """Say whether its holder may still count on the lease. `renewed_at` is the moment *before* it last renewed.

    Worked example, patience 10 s: a renewal that begins at 0 and is committed at 1 is seen by others at 1 or later, so
    nobody takes the lease before 11; its holder counts itself out at 7.5.
    """
    return now - renewed_at < VALID_SHARE * patience_s
