"""The spec repository, read: at its head, at a commit, and over its history.

What is read of a remote repository is its mirror, at most `READ_AGE_S` old where the remote answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime

from reconciler.core.entities import Damaged, FileChange, Tree
from reconciler.errors import ArgusError
from reconciler.names import RULES_FILE, split_path
from reconciler.shell.source import GitSource, Past
from webapi.diffs import diffs
from webapi.identities import Identities, Known

MAX_BLOB_BYTES = 1024 * 1024
"""What is read of a file at most. Anything longer is no spec, and is cut to one byte more so that it shows."""

READ_AGE_S = 5.0
"""How old a mirror of a remote repository may be for a read, in seconds. Writes fetch first."""

_PATH = re.compile(r"(?:(?!\.{1,2}/|\.git/)[A-Za-z0-9._-]+/)+(?!\.{1,2}\Z|\.git\Z)[A-Za-z0-9._-]+\Z", re.IGNORECASE)


class FileDamagedError(ArgusError):
    """What a file says cannot be read in the spec repository, so nothing can be changed in it: only all of it.

    `path` is the file's, `blob` the object that should hold what it says.
    """

    code = "file_damaged"

    def __init__(self, path: str, damaged: Damaged) -> None:
        super().__init__(damaged.of(path))
        self.path = path
        self.blob = damaged.blob


class SpecReader:
    """The reading side of the spec repository, shared by the threads of one API process."""

    def __init__(self, source: GitSource, ledger: Known | None = None) -> None:
        """Read the repository of `source`.

        `ledger` is asked for identities that history does not tell any more; without one, only history counts.
        """
        self._source = source
        self._copy, self._git = source.copy, source.copy.git
        self._identities = Identities(source, ledger)

    @property
    def source(self) -> GitSource:
        """The repository itself."""
        return self._source

    def read(self) -> Tree:
        """Give the newest tree: of a remote repository that answers, one at most `READ_AGE_S` old.

        A remote that does not answer is read as it was when it last did. Raises Unreachable.
        """
        tree = self._source.tree(max_age_s=READ_AGE_S)
        return self._source.tree(max_age_s=math.inf) if self._identities.settle() else tree

    def reach(self) -> None:
        """See that the repository can be read, whatever the ledger knows of it. Raises SourceUnreachable."""
        self._source.tree(max_age_s=READ_AGE_S)

    def expect_news(self) -> None:
        """Have the next read ask a remote repository, however young the copy is: somebody says that it has moved."""
        self._copy.expect_news()

    @property
    def trouble(self) -> str | None:
        """Why the remote repository could not be fetched the last time; None where it could, and for a local one."""
        return self._source.trouble

    def fetched_at(self) -> datetime | None:
        """Say when the copy of a remote repository was last brought up to date (UTC); None for a local one."""
        return self._copy.fetched_at()

    def past(self, prefix: str) -> tuple[Past, ...]:
        """Give the branch's commits whose SHA begins with `prefix`, as `read` sees it. Raises SourceUnreachable."""
        return self._source.past(prefix, max_age_s=READ_AGE_S)

    def is_after(self, sha: str, revision: str | None) -> bool:
        """Say whether a commit that touched spec files came onto the branch after `revision`."""
        return self._source.is_after(sha, revision)

    def text(self, path: str) -> bytes | None:
        """Give a file's content at the head that `read` gives, cut to `MAX_BLOB_BYTES` + 1; None where there is none.

        It is what counts: of a file that is held (`core.ownership`), what was accepted last.

        Raises SourceUnreachable, FileDamagedError, and ValueError on a path that nobody may write.
        """
        checked(path)
        if self._copy.remote:
            self._source.tree(max_age_s=READ_AGE_S)
        return self._copy.healing(lambda: self._text(path))

    def _text(self, path: str) -> bytes | None:
        if self._is_ruled(path):
            entry = self._source.counting(path)[1]
            return None if entry is None else self._whole(path, entry.blob)
        branch = f"refs/heads/{self._copy.branch}"
        [found] = self._git.describe([f"{branch}:{path}"])
        if found is None:  # it is not there, or its content is missing: its folder knows
            listed = self._text_at(branch, path)
            return listed[1] if listed is not None else None
        return self._whole(path, found.id) if found.kind == "blob" else None

    def commits(self, prefix: str) -> tuple[str, ...]:
        """Give the branch's commits, as of the last `read`, whose SHA begins with `prefix`."""
        return self._source.find(prefix)

    def life_of(self, model_key: str) -> tuple[FileChange, ...]:
        """Give what commits did to a model's file, oldest first, as of the last `read`; () if git knows no such key."""
        return self._source.life_of(model_key)

    def diffs(self, changes: Sequence[FileChange]) -> dict[str, str]:
        """Give each change's unified diff by its commit (`diffs.diffs`). Raises SourceUnreachable."""
        return self._copy.healing(lambda: diffs(self._copy, changes))

    def text_at(self, revision: str, path: str) -> tuple[str, bytes] | None:
        """Give a file's mode and content at a commit of the branch, cut as by `text`; None where there was none.

        Raises SourceUnreachable, FileDamagedError, and ValueError on a path that nobody may write.
        """
        checked(path)
        return self._copy.healing(lambda: self._text_at(revision, path))

    def _text_at(self, revision: str, path: str) -> tuple[str, bytes] | None:
        listed = self._git.run("ls-tree", "-z", "--full-tree", "--end-of-options", revision, "--", path)
        mode, _, rest = listed.decode(errors="replace").partition(" ")
        kind, _, rest = rest.partition(" ")
        if kind != "blob":
            return None
        return mode, self._whole(path, rest[:40])

    def _whole(self, path: str, blob: str) -> bytes:
        """Read what a file says. Raises SourceUnreachable, FileDamagedError."""
        found = self._blob(blob)
        if isinstance(found, Damaged):
            raise FileDamagedError(path, found)
        return found

    def _blob(self, blob: str) -> bytes | Damaged:
        return self._source.blobs([blob], MAX_BLOB_BYTES)[blob]

    def _is_ruled(self, path: str) -> bool:
        """Say whether what counts at a path may be something else than git has there."""
        return self._source.is_ruled and (path == RULES_FILE or split_path(path) is not None)


def checked(path: str) -> None:
    """Raise ValueError on a path that nobody may write."""
    if path != RULES_FILE and not _PATH.match(path):
        raise ValueError(f"{path!r} is no path that may be written")
