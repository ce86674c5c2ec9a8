"""Which models' folders a pass looks at, and what is said of the others. For the loop and for previews alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.core.desired import Wanted, must_be_located, pinned, source
from reconciler.core.entities import Located, Record, Unusable
from reconciler.ports import ModelFolders


def locate(
    folders: ModelFolders, want: Mapping[str, Wanted], records: Mapping[str, Record], now: datetime, platform: str
) -> dict[str, Located | Unusable]:
    """Find the folders of the models that are bound to none yet, by model key. The disk is asked for no others."""
    found: dict[str, Located | Unusable] = {}
    for key, wanted in want.items():
        record = records.get(key)
        bound = pinned(wanted, record, platform)
        if bound is not None:
            found[key] = bound
        elif must_be_located(wanted, record, now, platform):
            place = source(wanted)
            owner = wanted.file.identity.user_id
            found[key] = place if isinstance(place, Unusable) else folders.locate(place, owner)
    return found
