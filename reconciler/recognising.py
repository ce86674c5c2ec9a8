"""The first pass of a ledger that is new: what runs already is taken over as what git says that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.branch import Branch
from reconciler.core import recognition, requests, rewrites, room
from reconciler.core.desired import Said, is_read, understood
from reconciler.core.entities import (
    Deployment,
    FileChange,
    Health,
    Identity,
    Located,
    Observation,
    Record,
    SpecFile,
    State,
    Tree,
    Workload,
)
from reconciler.core.recognition import Accepted
from reconciler.core.workload import workload
from reconciler.ports import ModelFolders, Source
from reconciler.spec import Limits, LocalSource, ServingSpec, SpecRejected, source_of


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a new ledger begins with: the branch under the identities that hold, and records of what runs, by model key.

    `history` is all that ever happened to spec files, under these identities.
    """

    branch: Branch
    records: Mapping[str, Record]
    history: tuple[FileChange, ...]


def recognise(  # noqa: PLR0917  what a pass knows by now
    branch: Branch,
    seen: Observation,
    source: Source,
    folders: ModelFolders,
    limits: Limits,
    platform: str,
    now: datetime,
) -> Recognised:
    """Find out what the models are that Serve holds and that no record tells of (`core.recognition`).

    Models that Serve calls healthy, at a version that git confirms, are recorded as running. Raises SourceUnreachable.
    """
    history, tree = source.history(), branch.tree
    running = {key: each for key, each in seen.deployments.items() if room.unrecorded(None, each)}
    parsed = branch.parsed()
    candidates = recognition.revisions(running, tree, parsed, history, platform)
    said = _said(candidates, tree, parsed, source, limits)
    found = recognition.recognised(running, candidates, said, tree, platform)
    records = {key: _record(one, running[key], folders, platform, now) for key, one in found.items()}
    kept = recognition.carried(running, found, tree)
    carried = rewrites.carried_over(None, {key: records[key] for key in kept}, tree, None)
    if carried is None:
        return Recognised(branch, records, history)
    after = rewrites.rekeyed(tree, carried)
    held = recognition.retold(branch.held, tree, after)
    branch = replace(branch, tree=after, changes=(*requests.between({}, after), *held), held=held, carried=carried)
    return Recognised(branch, records, recognition.retold(history, tree, after))


def _said(
    candidates: Mapping[str, tuple[SpecFile, ...]],
    tree: Tree,
    parsed: Mapping[str, Said],
    source: Source,
    limits: Limits,
) -> dict[SpecFile, Said]:
    """Say what each of these files says. Those of today are read already."""
    said = {file: parsed[key] for key, file in tree.files.items()}
    files = {file for each in candidates.values() for file in each} - said.keys()
    blobs = {file.blob for file in files if is_read(file)}
    content = source.blobs(blobs, limits.max_bytes) if blobs else {}
    return said | {file: understood(file, content, limits) for file in files}


def _record(one: Accepted, seen: Deployment, folders: ModelFolders, platform: str, now: datetime) -> Record:
    file = one.file
    record = Record(file.identity, file.blob, file.commit, State.QUEUED, now, spec=one.spec, deployment=seen)
    runs = _workload(one.spec, file.identity, folders, platform) if one.is_proven else None
    if runs is None or seen.health is not Health.HEALTHY or not seen.target_replicas:
        return record
    runs = replace(runs, num_replicas=seen.target_replicas)
    return replace(
        record,
        state=State.RUNNING,
        applied=runs,
        applied_commit=file.commit,
        serving=runs,
        serving_commit=file.commit,
    )


def _workload(spec: ServingSpec, who: Identity, folders: ModelFolders, platform: str) -> Workload | None:
    """Give what runs, None where nobody can say from which folder.

    A folder that is gone by now is the one that the model was started from all the same, where the spec has its path.
    """
    named = source_of(spec.model_source, who.user_id)
    if isinstance(named, SpecRejected):
        return None
    place = folders.locate(named, who.user_id)
    if isinstance(named, LocalSource) and not isinstance(place, Located):
        place = Located(named.path)
    return workload(spec, who, place, platform) if isinstance(place, Located) else None
