"""Who keeps the gates: gathers what gates need of git and the rules, and asks them, pass after pass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.branch import Branch
from reconciler.core import gates
from reconciler.core.desired import Wanted
from reconciler.core.entities import Observation, Record
from reconciler.ports import Source


class Gatekeeper:
    """Asks the gates about what is pending."""

    def __init__(self, source: Source) -> None:
        """Read from `source` what the branch says of removals."""
        self._source = source

    def let_pass(
        self,
        branch: Branch,
        wanted: Mapping[str, Wanted],
        records: Mapping[str, Record],
        seen: Observation,
        now: datetime,
    ) -> dict[str, Wanted]:
        """Give what is wanted without what does not count now."""
        missing = records.keys() - wanted.keys()
        removals = self._source.removals(missing) if missing else {}
        changes = gates.pending(wanted, records, removals, branch.tree, seen.deployments)
        if not changes:
            return dict(wanted)
        after, _ = gates.gated(wanted, changes, self._gates(branch, now))
        return after

    def _gates(self, branch: Branch, now: datetime) -> tuple[gates.Gate, ...]:
        """Give the gates in their order: what one holds back, those after it are not asked about."""
        return ()
