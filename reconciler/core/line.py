"""The line: who takes room now and who waits, first come, first served. Pure.

Everybody who wants more than they hold stands in one line, by when they asked. Whoever fits goes. Who does not fit
waits, and keeps the room: one who came later may pass only through the gap that the one in front leaves however the
models that run go, and where two wait nobody passes. See docs/adr/0008-room-and-the-line.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Need:
    """GPUs that somebody wants beyond what they hold: `lasting` for good, `peak` (not less) at the most meanwhile."""

    lasting: int
    peak: int


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for whoever comes next.

    `free` are the GPUs that nobody holds; `open` those of them that are not kept for one who waits; `waiting` is how
    many wait so far. What is taken for good comes out of what is open. What is taken for a while may come out of all
    that is free: it is given back within one start, and who it is kept for cannot use it now anyway.
    """

    free: int
    open: int
    waiting: int = 0
    is_kept: bool = False

    def fits(self, need: Need) -> bool:
        """Say whether somebody may go. Who wants nothing more always may."""
        return (need.lasting <= self.open or not need.lasting) and (need.peak <= self.free or not need.peak)

    def taken(self, need: Need) -> Room:
        """Give what is left when somebody who fits has gone."""
        left = self.free - need.peak
        return replace(self, free=left, open=max(0, min(self.open - need.lasting, left)))

    def kept(self, need: Need, held: Mapping[int, int]) -> Room:
        """Give what is left for those behind one who waits.

        They go as soon as enough others have gone. 1 GPU is open, they need 4, and others run as 1 x 6: when that one
        goes 7 are there and 3 are left over, so the open one may be taken by who comes later. Others run as 2 x 3: when
        one of them goes there are exactly 4, and the open one is needed.

        Args:
            need: What they want. It does not fit.
            held: How many replicas (or what else may go one day) of all other models hold so many GPUs, by the GPUs.
        """
        missing = max(need.lasting - self.open, need.peak - self.free)
        gap = _gap(missing, held)
        if gap is None:  # not even without all other models: they wait for what others do on the same Ray
            return replace(self, waiting=self.waiting + 1)
        return replace(self, open=0 if self.is_kept else min(self.open, gap), waiting=self.waiting + 1, is_kept=True)


def _gap(missing: int, held: Mapping[int, int]) -> int | None:
    """Say how much more than `missing` is given back at the least, when it is; None where it never can be.

    Bit n of `sums` says that some of the replicas hold n GPUs together. Many of one size count by powers of two:
    1000 x 1 takes ten steps.
    """
    sums = 1
    for gpus, number in held.items():
        left, step = number, 1
        while left > 0:
            sums |= sums << gpus * min(step, left)
            left, step = left - step, step * 2
    enough = sums >> missing
    return (enough & -enough).bit_length() - 1 if enough else None
