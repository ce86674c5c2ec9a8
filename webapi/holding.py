"""What keeps changes from counting now, for the status page: the rules in git, and what the last pass held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from reconciler.core.entities import HoldKind, Record, Tree
from reconciler.core.gates import is_up
from reconciler.core.holds import NO_RULES
from reconciler.gatekeeper import RulesReader
from webapi import status_schemas
from webapi.brakes import braked
from webapi.parts import Parts


def summary(platform: Parts, tree: Tree, records: Iterable[Record], now: datetime) -> status_schemas.HoldsSummary:
    """Sum up. Raises SourceUnreachable."""
    known = list(records)
    standing = RulesReader(platform.store.source).read(tree)
    rules = standing.rules or NO_RULES
    open_now = [(each, until) for each in rules.freezes if (until := each.closes(now)) is not None]
    counted = Counter(record.held.kind for record in known if record.held is not None)
    return status_schemas.HoldsSummary(
        held={kind: counted[kind] for kind in HoldKind},
        removals=sum(is_up(record) for record in braked(known)),
        suspended_all=rules.everything if standing.rules is not None else standing.trouble,
        suspended_users=len(rules.users),
        suspended_models=len(rules.models),
        freezes=[
            status_schemas.FreezeNow(
                until=until, reason=each.reason, users=None if each.users is None else sorted(each.users)
            )
            for each, until in open_now
        ],
        rules_error=standing.trouble,
    )
