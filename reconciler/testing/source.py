"""A spec repository in memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from reconciler.core.entities import Commit, Damaged, Declared, Entry, FileChange, Tree, WrittenBy
from reconciler.core.history import History, PathChange, RawCommit
from reconciler.core.identity import Carried
from reconciler.errors import SourceUnreachable
from reconciler.ports import Reading
from reconciler.shell.git_answers import is_object_id
from reconciler.shell.objects import object_id


class MemorySource:
    """`ports.Source` in memory: a branch that only tests commit to. `down` makes it unreachable.

    `hangs` makes it a remote that does not answer any more: what was read last is all that there is. `damaged` are the
    ids of blobs that cannot be read.

    A commit is at its own second, one after the other from 2026-01-01 on, unless a test says when.
    """

    def __init__(self) -> None:
        """Begin with a branch unborn."""
        self.down = False
        self.hangs = False
        self.damaged: set[str] = set()
        self._last = Tree(None, {}, frozenset())
        self._commits: list[RawCommit] = []
        self._entries: dict[str, Entry] = {}
        self._blobs: dict[str, bytes] = {}
        self._carried: Carried | None = None
        self._history = History()

    def commit(
        self,
        files: Mapping[str, bytes | None],
        *,
        author: str = "ann",
        at: datetime | None = None,
        source: WrittenBy = "git",
        modes: Mapping[str, str] = MappingProxyType({}),
        trailers: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Put `files` (path to content, None removes) on the branch as one commit, and give its SHA.

        `modes` names the git modes of files that are not 100644.
        """
        changes = []
        for path, content in files.items():
            before, after = self._entries.pop(path, None), None
            if content is not None:
                after = self._entries[path] = Entry(modes.get(path, "100644"), object_id("blob", content))
                self._blobs[after.blob] = content
            if before != after:
                changes.append(PathChange(path, before, after))
        parent = self._history.head
        at = at or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(self._commits))
        content = json.dumps(
            [parent, author, at.isoformat(), source, sorted(map(str, changes)), dict(trailers)]
        ).encode()
        sha, email = object_id("commit", content), f"{author}@example.org"
        commit = Commit(sha=sha, author=author, committed_at=at, source=source, email=email)
        self._commits.append(RawCommit(commit, parent, tuple(changes), trailers))
        self._history.extend(self._commits[-1:])
        return commit.sha

    def rewind(self, commits: int) -> None:
        """Take the newest `commits` commits off the branch, as a forced push does."""
        kept = self._commits[: len(self._commits) - commits]
        self._commits, self._entries, self._history = kept, {}, History(carried=self._carried)
        self._history.extend(kept)
        for raw in kept:
            for change in raw.changes:
                self._entries.pop(change.path, None)
                if change.after:
                    self._entries[change.path] = change.after

    @property
    def length(self) -> int:
        """How many commits the branch has."""
        return len(self._commits)

    def rewrite(self, commits: int, *, squash: bool = False) -> None:
        """Write the newest `commits` commits anew, each by itself or all as one: the same files in the end, other SHAs.

        It is what an interactive rebase and a forced push do to a branch.
        """
        kept, old = self._commits[: len(self._commits) - commits], self._commits[len(self._commits) - commits :]
        parent = kept[-1].commit.sha if kept else None
        changes = [(raw.commit, raw.changes, raw.trailers) for raw in old]
        if squash and old:
            changes = [(old[-1].commit, _as_one(old), old[-1].trailers)]
        for commit, made, said in changes:
            sha = object_id("commit", f"{commit.sha} anew on {parent} {squash}".encode())
            kept.append(RawCommit(replace(commit, sha=sha), parent, made, said))
            parent = sha
        self._commits, self._history = kept, History(carried=self._carried)
        self._history.extend(kept)

    def read(self, since: str | None, carried: Carried | None = None) -> Reading:
        """Keep `ports.Source.read`."""
        self._reach()
        if carried != self._carried:
            self._carried, self._history = carried, History(carried=carried)
            self._history.extend(self._commits)
        if self.hangs:
            if since is None or since != self._last.revision:
                raise SourceUnreachable("the spec repository does not answer")
            return Reading(self._last, (), "the spec repository does not answer, so its last known revision counts")
        changes = self._history.changes_since(since) if since is not None else None
        self._last = self._history.tree
        return Reading(tree=self._last, changes=changes)

    def history(self) -> tuple[FileChange, ...]:
        """Keep `ports.Source.history`."""
        return self._history.changes

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Keep `ports.Source.declared`."""
        return self._history.declared(commits)

    def precedes(self, sha: str, other: str) -> bool:
        """Keep `ports.Source.precedes`."""
        return self._history.precedes(sha, other)

    def removals(self, model_keys: Collection[str]) -> Mapping[str, Commit]:
        """Keep `ports.Source.removals`."""
        return self._history.removals(model_keys)

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Keep `ports.Source.blobs`."""
        self._reach()
        return {blob: self._blob(blob, max_bytes) for blob in ids}

    def _blob(self, blob: str, max_bytes: int) -> bytes | Damaged:
        if not is_object_id(blob):
            raise SourceUnreachable("that is no object id")
        if blob in self.damaged:
            return Damaged(blob, "it is damaged")
        content = self._blobs.get(blob)
        return content[: max_bytes + 1] if content is not None else Damaged(blob, "it is missing")

    def hurry(self) -> None:
        """Keep `ports.Source.hurry`: it is asked at each read anyway."""

    def _reach(self) -> None:
        if self.down:
            raise SourceUnreachable("the spec repository does not answer")


def _as_one(commits: Sequence[RawCommit]) -> tuple[PathChange, ...]:
    """Give what several commits changed in all."""
    changes: dict[str, PathChange] = {}
    for raw in commits:
        for change in raw.changes:
            before = changes[change.path].before if change.path in changes else change.before
            changes[change.path] = PathChange(change.path, before, change.after)
    return tuple(change for change in changes.values() if change.before != change.after)
