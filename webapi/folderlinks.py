"""The one look at the disk that is taken when a spec is written: does its folder lead out of what its owner may use.

A folder that is missing, or holds what cannot be served, is accepted: it may be on its way, and the reconciler says so
in the model's events. A link out of the owner's roots is refused at once (403), and looked for again at every apply.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.spec import HF_ROOT, USERS_ROOT, LocalSource, ServingSpec, source_of
from webapi.problems import Forbidden

_PRIVATE = "/private"


def refuse_links_out(spec: ServingSpec, owner: str, private_root: Path) -> None:
    """Refuse a spec whose folder, with every link resolved, lies outside its owner's roots. Raises Forbidden.

    What users call `/private` lies at `private_root`. Names of the hub's cache are the platform's own.
    """
    source = source_of(spec.model_source, owner)
    if not isinstance(source, LocalSource):
        return
    roots = (HF_ROOT, f"{USERS_ROOT}/{owner}")
    try:
        real = _real(private_root, source.path)
        inside = any(real.is_relative_to(_real(private_root, root)) for root in roots)
    except OSError:  # links in a circle, a folder that may not be read: the reconciler says more
        return
    if not inside:
        raise Forbidden(
            f"model_source is, or leads through, a link out of {roots[0]}/... and {roots[1]}/...; "
            "put the files themselves there",
            field="model_source",
        )


def _real(private_root: Path, shown: str) -> Path:
    return Path(os.path.realpath(private_root / shown.removeprefix(f"{_PRIVATE}/")))
