"""What should run: the tree's files with what their content says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from reconciler.core.entities import Commit, Damaged, HoldKind, Located, Record, SpecFile, Tree, Unusable
from reconciler.core.retry import waits
from reconciler.core.workload import engine_version
from reconciler.spec import (
    HubSource,
    Limits,
    LocalSource,
    Problem,
    ServingSpec,
    SpecRejected,
    parse,
    source_of,
)

PLAIN_FILE = "100644"

Said: TypeAlias = ServingSpec | SpecRejected | Damaged
"""What a file says, why that is refused, or why nobody knows."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """Why what a file says now does not count for the time being (`core.gates`)."""

    kind: HoldKind
    message: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model as the repository wants it.

    `spec` is what its file says now, or why that is refused or withheld. `effective` is what is worked towards: the
    file's spec, or while that does not count the last one that was accepted (None where there never was one).

    Of a change that is withheld, `newer` is the commit, and `is_gone` says that it takes the file away; `file` then is
    what was accepted.
    """

    file: SpecFile
    spec: ServingSpec | SpecRejected | Withheld
    effective: ServingSpec | None
    newer: Commit | None = None
    is_gone: bool = False


def desired(tree: Tree, parsed: Mapping[str, Said], records: Mapping[str, Record]) -> dict[str, Wanted]:
    """Join the tree's files with their parsed content, both keyed by model key.

    A file that is refused, or that cannot be read, is an entry, not a hole: its model holds at the last accepted spec.
    """
    wanted = {}
    for key, file in tree.files.items():
        spec = refused_by_mode(file) or parsed[key]
        record = records.get(key)
        if isinstance(spec, Damaged):
            why = Withheld(HoldKind.DAMAGED, spec.of(file.identity.path))
            wanted[key] = kept(record, why, file.commit) or Wanted(file, why, None, newer=file.commit)
        elif isinstance(spec, ServingSpec):
            wanted[key] = Wanted(file=file, spec=spec, effective=spec)
        else:
            wanted[key] = Wanted(file=file, spec=spec, effective=record.spec if record is not None else None)
    return wanted


def kept(record: Record | None, why: Withheld, newer: Commit, *, is_gone: bool = False) -> Wanted | None:
    """Give what is wanted of a model while `newer` does not count: what was accepted; None where nothing ever was."""
    if record is None or record.spec is None:
        return None
    accepted = SpecFile(record.identity, record.blob, PLAIN_FILE, record.commit)
    return Wanted(accepted, why, record.spec, newer=newer, is_gone=is_gone)


def pinned(wanted: Wanted, record: Record | None, platform: str) -> Located | None:
    """Give the folder that a model is bound to, None where one has to be looked for.

    A version keeps the folder that it was started with: what a hub name points at may move in the cache, and scaling
    must not mix two snapshots.
    """
    if record is None or record.applied is None or wanted.effective is None:
        return None
    version = engine_version(wanted.effective, wanted.file.identity, platform)
    return Located(record.applied.source_path) if record.applied.version == version else None


def must_be_located(wanted: Wanted, record: Record | None, now: datetime, platform: str) -> bool:
    """Say whether this pass has to look at a model's folder: it is not bound to one and does not wait for a retry."""
    if wanted.effective is None or pinned(wanted, record, platform) is not None:
        return False
    version = engine_version(wanted.effective, wanted.file.identity, platform)
    return not waits(record.failure if record else None, version, now)


def source(wanted: Wanted) -> LocalSource | HubSource | Unusable:
    """Say which folder a model wants. An accepted spec's source is well-formed: parsing has seen to that."""
    assert wanted.effective is not None, "only asked for models with an accepted spec"  # noqa: S101  caller's contract
    found = source_of(wanted.effective.model_source, wanted.file.identity.user_id)
    return Unusable(found.message) if isinstance(found, SpecRejected) else found


def is_read(file: SpecFile) -> bool:
    """Say whether a file's content is looked at. What is no plain file may have none.

    A submodule, for one, is a commit of a repository that nobody has here.
    """
    return file.mode == PLAIN_FILE


def understood(file: SpecFile, content: Mapping[str, bytes | Damaged], limits: Limits) -> Said:
    """Say what a file says. `content` holds, by blob, what is read (`is_read`)."""
    if refused := refused_by_mode(file):
        return refused
    who, data = file.identity, content[file.blob]
    return data if isinstance(data, Damaged) else parse(data, owner=who.user_id, limits=limits, suffix=who.suffix)


def refused_by_mode(file: SpecFile) -> SpecRejected | None:
    """Refuse what is no plain file before its content is looked at: a link's content is a path on somebody's disk."""
    if file.mode == PLAIN_FILE:
        return None
    return SpecRejected(
        problem=Problem.INVALID,
        message=f"{file.identity.path} has git mode {file.mode}: a spec is a plain file (mode {PLAIN_FILE}), "
        "neither executable nor a link",
    )
