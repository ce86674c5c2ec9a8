"""Who a model is: history says, and where history was rewritten, the ledger (`core.rewrites`).

Between a forced push and the loop's next pass this side works it out as the loop will.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from reconciler.core import rewrites
from reconciler.core.entities import Record, Tree
from reconciler.core.identity import Carried
from reconciler.shell.source import GitSource


class Known(Protocol):
    """What the ledger knows of identities (`LedgerReader`). Every method raises LedgerUnreachable."""

    def standing(self) -> tuple[str | None, str | None]:
        """Give the revision that the loop last finished, and the one from which identities are carried over."""
        ...

    def carried(self) -> Carried | None:
        """Give the identities that were carried over."""
        ...

    def models(self, user_id: str | None) -> Mapping[str, Record]:
        """Give the models that live."""
        ...


class Identities:
    """The identities under which one `GitSource` reads history. Every method raises Unreachable."""

    def __init__(self, source: GitSource, ledger: Known | None) -> None:
        """Keep those of `source`. Without a ledger only history counts."""
        self._source = source
        self._ledger = ledger
        self._carried_since: str | None = None
        self._judged: tuple[str, str | None] | None = None

    def settle(self) -> bool:
        """Read history under the identities and rulings that the ledger knows. Gives True where that changed anything.

        Where the ledger stands at a revision that the branch no longer has, the loop's next pass will carry identities
        over: what it will find is found here first, so that nobody is told of a model that never was.
        """
        if self._ledger is None:
            return False
        before = self._source.carried
        revision, since = self._ledger.standing()
        is_other = self._source.agree(revision)
        if since != self._carried_since or (self._judged is not None and self._holds(revision)):
            carried = self._ledger.carried()
            self._source.carry(carried)
            self._carried_since = carried.revision if carried is not None else None
            self._judged = None
        if revision is not None and not self._holds(revision):
            self._source.tree(max_age_s=math.inf)  # what is on this disk
            if not self._holds(revision):
                self._judge(revision, self._source.tree())  # or else this mirror is behind
        return is_other or self._source.carried is not before

    def _holds(self, revision: str | None) -> bool:
        return revision is None or self._source.holds(revision)

    def _judge(self, revision: str, tree: Tree) -> None:
        """Carry identities over from the loop's last revision, which is not on the branch of `tree` any more."""
        if self._ledger is None or self._source.holds(revision) or self._judged == (revision, tree.revision):
            return
        self._source.carry(rewrites.carried_over(self._source.carried, self._ledger.models(None), tree, None))
        self._judged = (revision, tree.revision)
