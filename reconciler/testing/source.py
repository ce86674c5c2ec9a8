"""A spec repository in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from reconciler.core.entities import Commit, FileChange, WrittenBy
from reconciler.core.history import Entry, History, PathChange, RawCommit
from reconciler.errors import SourceUnreachable
from reconciler.ports import Reading
from reconciler.shell.objects import object_id


class MemorySource:
    """`ports.Source` in memory: a branch that only tests commit to. `down` makes it unreachable.

    A commit is at its own second, one after the other from 2026-01-01 on, unless a test says when.
    """

    def __init__(self) -> None:
        """Begin with a branch unborn."""
        self.down = False
        self._commits: list[RawCommit] = []
        self._entries: dict[str, Entry] = {}
        self._blobs: dict[str, bytes] = {}
        self._history = History()

    def commit(
        self,
        files: Mapping[str, bytes | None],
        *,
        author: str = "ann",
        at: datetime | None = None,
        source: WrittenBy = "git",
        modes: Mapping[str, str] = MappingProxyType({}),
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
        content = json.dumps([parent, author, at.isoformat(), source, sorted(map(str, changes))]).encode()
        commit = Commit(sha=object_id("commit", content), author=author, committed_at=at, source=source)
        self._commits.append(RawCommit(commit, parent, tuple(changes)))
        self._history.extend(self._commits[-1:])
        return commit.sha

    def rewind(self, commits: int) -> None:
        """Take the newest `commits` commits off the branch, as a forced push does."""
        kept = self._commits[: len(self._commits) - commits]
        self._commits, self._entries, self._history = kept, {}, History()
        self._history.extend(kept)
        for raw in kept:
            for change in raw.changes:
                self._entries.pop(change.path, None)
                if change.after:
                    self._entries[change.path] = change.after

    def read(self, since: str | None) -> Reading:
        """Keep `ports.Source.read`."""
        self._reach()
        changes = self._history.changes_since(since) if since is not None else None
        return Reading(tree=self._history.tree, changes=changes)

    def history(self) -> tuple[FileChange, ...]:
        """Keep `ports.Source.history`."""
        return self._history.changes

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes]:
        """Keep `ports.Source.blobs`."""
        self._reach()
        try:
            return {blob: self._blobs[blob][: max_bytes + 1] for blob in ids}
        except KeyError:
            raise SourceUnreachable("a blob that was asked for is not in the spec repository") from None

    def _reach(self) -> None:
        if self.down:
            raise SourceUnreachable("the spec repository does not answer")
