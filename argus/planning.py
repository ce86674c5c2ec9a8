"""`argus plan`: what merging one revision into another would do. Both are read as data; nothing of them is run.

Without a server the base's specs are taken to run already, all of them, in a cluster of `gpus` GPUs or of unknown size.
With one, the change is sent to it and planned against its ledger: what really runs, waits and has failed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from argus.client import Client
from argus.errors import ClientError, UpFailed
from reconciler.core.authorship import deciding
from reconciler.core.desired import PLAIN_FILE, is_read, understood
from reconciler.core.entities import Cluster, Damaged
from reconciler.core.history import ACCEPT, PathChange, RawCommit
from reconciler.core.ownership import gate
from reconciler.core.plandata import data
from reconciler.core.preview import as_if_running, assume_folders, foresee, merged
from reconciler.gatekeeper import RulesReader, gates_of
from reconciler.names import split_path
from reconciler.settings import Settings
from reconciler.shell.git import Git
from reconciler.shell.ownership import foreseen
from reconciler.shell.revisions import NoSuchRevision, brought, commits_of, git_folder, history_at, resolve
from reconciler.spec import Limits

TIMEOUT_S = 60.0
"""For the server's answer, and for each git command."""

PLAN = "/api/v2/serve/plan"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be planned. `range` is `BASE..HEAD`, either side may be left out; `gpus` is None where not known."""

    repository: Path
    range: str | None = None
    gpus: int | None = None


def offline(asked: Asked, settings: Settings) -> dict[str, Any]:
    """Plan against the base, as if all of it ran. Gives `plandata.data`.

    Raises NoSuchRevision, Collision, SourceUnreachable.
    """
    git, base, head = _ends(asked, settings)
    history = history_at(git, base)
    tree = history.tree
    newest = max((file.commit.committed_at for file in tree.files.values()), default=datetime.now(UTC))
    now = max(datetime.now(UTC), newest)
    authors = foreseen(settings, git.folder, commits_of(git, base, head))
    target = merged(tree, authors.counting(brought(git, base, head)), now)
    files = [file for each in (tree, target) for file in each.files.values()]
    content = git.blobs(sorted({file.blob for file in files if is_read(file)}), settings.limits.max_bytes)
    running = {key: understood(file, content, settings.limits) for key, file in tree.files.items()}
    records = as_if_running(tree, running, now, settings.platform)
    preview = foresee(
        tree=target,
        parsed={
            key: running[key] if tree.files.get(key) is file else understood(file, content, settings.limits)
            for key, file in target.files.items()
        },
        records=records,
        locate=assume_folders,
        cluster=None if asked.gpus is None else Cluster(asked.gpus, asked.gpus),
        now=now,
        platform=settings.platform,
        update_strategy=settings.serving.update_strategy,
        gates=(
            gate(authors.held),
            *gates_of(history, settings.brake, RulesReader(git).read(target), records=records, now=now),
        ),
    )
    return data(
        preview,
        base=base,
        head=head,
        against="base",
        new_users=target.users - tree.users,
        authorship=None if authors.policy == "trust_branch" else authors,
    )


def on_server(asked: Asked, settings: Settings, client: Client) -> dict[str, Any]:
    """Have the change planned by the platform that `client` speaks to. Gives `plandata.data`.

    Raises NoSuchRevision, SourceUnreachable, UpFailed.
    """
    git, base, head = _ends(asked, settings)
    changes = [change for change in brought(git, base, head) if split_path(change.path)]
    body = _change_of(git, changes, settings.limits)
    body["commits"] = _commits_of(commits_of(git, base, head), {change.path for change in changes})
    try:
        found: dict[str, Any] = client.post(PLAN, body, timeout_s=TIMEOUT_S)
    except ClientError as error:
        raise UpFailed(f"the server cannot plan this: {error}") from None
    return {**found, "head": head}


def would_change(found: Mapping[str, Any]) -> bool:
    """Say whether a plan holds anything that would happen."""
    return bool(found["changes"] or found["others"]["changed"])


def _ends(asked: Asked, settings: Settings) -> tuple[Git, str, str]:
    git = Git(git_folder(asked.repository.absolute()), TIMEOUT_S)
    base, named = _names(asked.range)
    head = resolve(git, named)
    if base:
        return git, resolve(git, base), head
    branch = settings.spec_repo.branch
    for name in (f"refs/remotes/origin/{branch}", f"refs/heads/{branch}"):
        try:
            return git, resolve(git, name), head
        except NoSuchRevision:
            continue
    raise NoSuchRevision(f"there is neither origin/{branch} nor {branch} here; say which with BASE..HEAD")


def _names(named: str | None) -> tuple[str, str]:
    base, _, head = (named or "").partition("..")
    return base, head.removeprefix(".") or "HEAD"


def _change_of(git: Git, changes: list[PathChange], limits: Limits) -> dict[str, Any]:
    """Write changes as the API takes them. Raises UpFailed where a file is no text."""
    blobs = [change.after.blob for change in changes if change.after and change.after.mode == PLAIN_FILE]
    content = git.blobs(blobs, limits.max_bytes)
    files: dict[str, str | None] = {}
    for change in changes:
        said = content.get(change.after.blob, b"") if change.after else None
        if isinstance(said, Damaged):
            raise UpFailed(said.of(change.path))
        try:
            files[change.path] = said.decode() if said is not None else None
        except UnicodeDecodeError:
            raise UpFailed(f"{change.path} is not UTF-8 text; `argus validate` says where") from None
    return {
        "files": files,
        "modes": {change.path: change.after.mode for change in changes if change.after},
        "before": {change.path: change.before.blob if change.before else None for change in changes},
    }


def _commits_of(commits: list[RawCommit], paths: set[str]) -> list[dict[str, Any]]:
    """Write who wrote `paths` as the API takes it."""
    return [
        {
            "sha": raw.commit.sha,
            "author": raw.commit.author,
            "email": raw.commit.email,
            "by_api": raw.commit.source == "api",
            "changes": {change.path: _did(change) for change in raw.changes},
            "accepts": raw.trailers.get(ACCEPT, "").split(),
        }
        for raw in deciding(commits, paths)
    ]


def _did(change: PathChange) -> str:
    return "added" if change.before is None else "removed" if change.after is None else "changed"
