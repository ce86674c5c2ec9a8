"""How long models take to load: what was measured, and what is told to those who wait. Pure; kept by the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TypeAlias

from reconciler.core.entities import Workload

Kind: TypeAlias = tuple[str, int]
"""What a load is measured by: the model's folder, and the GPUs of a replica."""

KEPT_LOADS = 10
"""Loads that count for one kind, the newest. A machine that became faster shows after six of them."""
KEPT_KINDS = 1000
"""Kinds that are remembered, those loaded last: 100 KB in the ledger at the most usual lengths of paths."""
LONGEST_LOAD_S = 86_400.0

LONGEST_RETRY_S = 600
UNKNOWN_RETRY_S = 10
"""What a client is told to wait where nothing is known, and where a load is later than it should be."""
_STEPS_S = (5, 10, 20, 30, 45, 60, 90, 120, 180, 300, LONGEST_RETRY_S)


@dataclass(frozen=True, slots=True)
class Load:
    """One load that ended well: from the start of a version to its first answer, in seconds."""

    source_path: str
    gpus_per_replica: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadTimes:
    """The newest loads of each kind, oldest first; the kinds in the order in which they were loaded last."""

    by_kind: Mapping[Kind, tuple[float, ...]] = field(default_factory=dict, hash=False)

    def estimate_s(self, workload: Workload) -> int | None:
        """Say how long a start of `workload` takes, in whole seconds: the median. None where none was measured."""
        loads = self.by_kind.get((workload.source_path, workload.gpus_per_replica))
        return max(1, math.ceil(median(loads))) if loads else None

    def after(self, loads: Iterable[Load]) -> LoadTimes:
        """Give what is known after further loads."""
        known = dict(self.by_kind)
        for load in loads:
            kind = (load.source_path, load.gpus_per_replica)
            known[kind] = (*known.pop(kind, ()), load.seconds)[-KEPT_LOADS:]
        return LoadTimes(dict(list(known.items())[-KEPT_KINDS:]))

    def to_json(self) -> str:
        """Give the loads as text, in ASCII."""
        return json.dumps([[path, gpus, *loads] for (path, gpus), loads in self.by_kind.items()])

    @classmethod
    def from_json(cls, text: str) -> LoadTimes:
        """Read what `to_json` gave."""
        return cls({(path, gpus): tuple(loads) for path, gpus, *loads in json.loads(text)})


def measured(workload: Workload, began: datetime, now: datetime) -> Load | None:
    """Give a load as it was measured; None where the clock was set meanwhile, so that nothing is known."""
    seconds = (now - began).total_seconds()
    if not 0 < seconds <= LONGEST_LOAD_S:
        return None
    return Load(workload.source_path, workload.gpus_per_replica, round(seconds, 1))


def retry_after_s(estimate_s: int | None, began: datetime | None, now: datetime) -> int:
    """Say when a client may ask again: what is left of the estimate, rounded up to one of a few steps.

    The steps keep the fronts' table still: a load of 100 s changes it eight times (to 120, 90, 60, 45, 30, 20, 10 and
    5 s), not at every pass. A load that is later than it should be is asked for every 10 s.
    """
    if estimate_s is None or began is None:
        return UNKNOWN_RETRY_S
    left = estimate_s - max(0.0, (now - began).total_seconds())
    if left <= 0:
        return UNKNOWN_RETRY_S
    return next((step for step in _STEPS_S if left <= step), LONGEST_RETRY_S)
