"""When a lease may be taken, and when its holder must not count on it any more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.lease import Lease, Sighting, is_valid, may_be_taken, sighted

HELD = Lease(token=7, holder="a", renewals=3, patience_s=10)


def test_a_lease_that_was_given_back_may_be_taken_at_once() -> None:
    assert may_be_taken(Sighting(Lease(7, None, 4, 10), since=100), now=100)


def test_a_lease_may_be_taken_after_its_holders_own_patience() -> None:
    seen = Sighting(HELD, since=100)
    assert not may_be_taken(seen, now=109.9)
    assert may_be_taken(seen, now=110)


def test_any_sign_of_life_begins_the_wait_anew() -> None:
    first = sighted(None, HELD, now=100)
    assert sighted(first, HELD, now=109) == first
    assert sighted(first, Lease(7, "a", 4, 10), now=109).since == 109


seconds = st.floats(0, 2000)


@given(written_s=seconds, seen_s=seconds, later_s=seconds, patience_s=st.floats(0.1, 600), clock=st.data())
def test_nobody_may_take_a_lease_that_its_holder_counts_on(
    written_s: float, seen_s: float, later_s: float, patience_s: float, clock: st.DataObject
) -> None:
    """The holder begins to renew at 0. The other's clock shows any time, and goes a fifth slower to a third faster."""
    pace, shift = clock.draw(st.floats(0.8, 1.3)), clock.draw(st.floats(-1e9, 1e9))
    seen_at = written_s + seen_s
    now = seen_at + later_s
    seen = Sighting(Lease(1, "a", 1, patience_s), since=seen_at * pace + shift)
    rounding_s = 1e-3
    if may_be_taken(seen, now * pace + shift - rounding_s):
        assert not is_valid(0, patience_s, now)
