"""The spec repository, read. Effects only: what a commit means is decided in `core.history`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from reconciler.core.entities import Commit, Damaged, Declared, Entry, FileChange, SpecFile, Tree
from reconciler.core.history import History, RawCommit
from reconciler.core.identity import Carried
from reconciler.core.ownership import Rulings
from reconciler.errors import BranchInDoubt, SourceUnreachable
from reconciler.names import RULES_FILE
from reconciler.ports import Reading
from reconciler.settings import Settings
from reconciler.shell.access import Access
from reconciler.shell.fetching import LONGEST_PAUSE_S
from reconciler.shell.followed_branch import FollowedBranch
from reconciler.shell.ownership import Ownership, Recall
from reconciler.shell.patience import take
from reconciler.shell.spec_copy import SpecCopy, folder_of

PATIENCE_S = 5.0
"""How long a pass waits for a remote, in seconds, before it goes on with what was last fetched."""

READ_PATIENCE_S = 2.0
"""The same for a request that only reads."""


@dataclass(frozen=True, slots=True)
class Past:
    """A commit of the branch, and each of its changes of spec files with what happened to that model next."""

    commit: Commit
    changes: tuple[tuple[FileChange, FileChange | None], ...]


class GitSource:
    """`ports.Source` on a real repository, shared by the threads of one process.

    `copy` is the repository as this disk has it. What is asked here is asked of its branch's history, in memory: a
    read brings both up to date, every other question is answered as of what was read last.
    """

    def __init__(
        self,
        url: str,
        *,
        home: Path,
        branch: str = "main",
        timeout_s: float = 30,
        access: Access | None = None,
        patience_s: float = PATIENCE_S,
        ownership: Ownership | None = None,
    ) -> None:
        """Read `branch` of `url`. `timeout_s` limits each git command, not a whole read.

        `patience_s` is how long a reader waits for a remote of which there is a copy. `ownership` rules upon commits;
        without it all of them count, and nothing `is_ruled`: what counts is then what the branch holds.

        Credentials belong into `access`: git itself shows a URL's in its process list.
        """
        self.copy = SpecCopy(url, home=home, branch=branch, timeout_s=timeout_s, access=access)
        self.is_ruled = ownership is not None
        self._followed = FollowedBranch(self.copy, ownership)
        self._patience_s = patience_s
        self._longest_pause_s = LONGEST_PAUSE_S
        self._lock = threading.Lock()
        self._failed_at, self._failure = -math.inf, ""

    @classmethod
    def from_settings(cls, settings: Settings, recall: Recall = Rulings) -> Self:
        """Give the source that the configuration names. `recall` tells what earlier passes ruled upon commits."""
        repo, url, home = settings.spec_repo, settings.spec_repo_url, settings.home
        return cls(
            url,
            home=home,
            branch=repo.branch,
            timeout_s=repo.timeout_s,
            access=Access.from_settings(settings),
            ownership=Ownership.from_settings(settings, folder_of(url, home), recall),
        )

    def read(self, since: str | None, carried: Carried | None = None) -> Reading:
        """Keep `ports.Source.read`. A remote that hangs holds it up for `patience_s`."""
        trouble = None
        pause_s, self._longest_pause_s = self._longest_pause_s, LONGEST_PAUSE_S
        try:
            self.copy.fetch(patience_s=self._patience_s, longest_pause_s=pause_s)
        except SourceUnreachable as error:
            if since is None:
                raise
            trouble = str(error)
        self.agree(since)
        with self._alone():
            self._followed.carry(carried)
            if trouble is not None:
                self._followed.advance_to_copy(trouble, since)
                trouble = f"the spec repository does not answer, so its last known revision counts: {trouble}"
            else:
                self._followed.advance()
            trouble = self._followed.doubt or trouble
            history = self._followed.history
            return Reading(
                tree=history.tree,
                changes=history.changes_since(since) if since is not None else None,
                trouble=trouble,
                held=history.standing,
                rulings=history.rulings,
                rules_held=history.rules_held,
            )

    def hurry(self) -> None:
        """Keep `ports.Source.hurry`."""
        self._longest_pause_s = 0.0

    def history(self) -> tuple[FileChange, ...]:
        """Keep `ports.Source.history`."""
        with self._lock:
            return self._followed.history.changes

    def tree(self, *, max_age_s: float = 0) -> Tree:
        """Read the newest revision, or the last known one of a remote that does not answer. Raises SourceUnreachable.

        A mirror that this process fetched within the last `max_age_s` seconds is read as it is; a local repository is
        always current. A remote that hangs holds it up for `READ_PATIENCE_S`.
        """
        trouble = None
        try:
            self.copy.fetch(patience_s=min(READ_PATIENCE_S, self._patience_s), max_age_s=max_age_s)
        except SourceUnreachable as error:
            trouble = str(error)
        with self._alone():
            if trouble is not None:
                self._followed.advance_to_copy(trouble)
            else:
                self._followed.advance()
            return self._followed.history.tree

    def at(self, path: str) -> tuple[str | None, SpecFile | None]:
        """Give the newest revision that this machine has, and its spec file at `path`. Raises SourceUnreachable."""
        with self._alone():
            self._followed.advance()
            return self._followed.history.head, self._followed.history.at(path)

    def counting(self, path: str) -> tuple[str | None, Entry | None]:
        """Give the newest revision that this machine has, and what counts there at a spec's path, or at the rules'.

        Raises SourceUnreachable.
        """
        with self._alone():
            self._followed.advance()
            tree, file = self._followed.history.tree, self._followed.history.at(path)
            if path == RULES_FILE:
                return tree.revision, tree.rules[0].entry if tree.rules else None
            return tree.revision, Entry(file.mode, file.blob) if file else None

    @property
    def carried(self) -> Carried | None:
        """The identities that history is read with."""
        return self._followed.carried

    def carry(self, carried: Carried | None) -> None:
        """Read history with these identities from now on (`core.identity.Carried`)."""
        with self._lock:
            self._followed.carry(carried)

    def holds(self, revision: str) -> bool:
        """Say whether what was read last has this commit on its branch."""
        with self._lock:
            return self._followed.history.holds(revision)

    def find(self, prefix: str) -> tuple[str, ...]:
        """Give the branch's commits, as of what was read last, whose SHA begins with `prefix`."""
        with self._lock:
            return self._followed.history.find(prefix)

    def life_of(self, model_key: str) -> tuple[FileChange, ...]:
        """Give what commits did to a model's file, oldest first, as of what was read last."""
        with self._lock:
            return self._followed.history.life_of(model_key)

    def agree(self, revision: str | None) -> bool:
        """Rule as the loop did up to `revision`, which it last finished. Gives True where this side ruled otherwise.

        That happens where a key or an address was registered between two processes' looks at a commit. Raises
        LedgerUnreachable.
        """
        rulings = self._followed.recall(revision)
        if rulings is None:
            return False
        with self._lock:
            return self._followed.agree(revision, rulings)

    def refuse_if_doubtful(self) -> None:
        """Raise BranchInDoubt where nobody vouches for a branch that was rewritten."""
        if self.is_ruled:
            with self._alone():
                self._followed.advance()
                if (doubt := self._followed.doubt) is not None:
                    raise BranchInDoubt(doubt)

    @property
    def trouble(self) -> str | None:
        """Why the remote could not be fetched the last time, or its branch does not count; None where all is well."""
        return self.copy.trouble or self._followed.doubt

    def past(self, prefix: str, *, max_age_s: float = 0) -> tuple[Past, ...]:
        """Give the branch's commits whose SHA begins with `prefix`, each with what it did. Raises SourceUnreachable."""
        self.tree(max_age_s=max_age_s)
        with self._lock:
            history = self._followed.history
            return tuple(_past(history, sha) for sha in history.starting_with(prefix))

    def is_after(self, sha: str, revision: str | None) -> bool:
        """Say whether a commit came onto the branch after `revision`, as far as the branch was read last."""
        with self._lock:
            return self._followed.history.is_after(sha, revision)

    def follow(self, published: RawCommit, path: str) -> FileChange | None:
        """Say what a commit that was just published did to the spec file at `path`. Raises SourceUnreachable.

        Where nobody else wrote since the last read, the history goes on with `published` itself, and git is not asked.
        """
        with self._alone():
            followed, sha = self._followed, published.commit.sha
            if published.parent == followed.history.head:
                followed.history.extend([published])
            elif followed.history.change_by(sha, path) is None:  # another thread may have read it already
                followed.advance()
            return followed.history.change_by(sha, path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only thread inside. Raises SourceUnreachable.

        Who waited while another found git unreachable shares that answer: sixteen requests that found it out one after
        the other would take sixteen times the limit. Once it is known, nobody waits for who looks whether it still is.
        """
        began = time.monotonic()
        limit_s = 2 * self.copy.timeout_s  # long enough to hear what became of a command that began just before
        if not take(self._lock, limit_s, self.copy.git.patience.refuse_if_tried):
            raise SourceUnreachable(f"git has kept others busy for {limit_s:g} s")
        try:
            if self._failed_at > began:
                raise SourceUnreachable(self._failure)
            try:
                yield
            except SourceUnreachable as error:
                self._failed_at, self._failure = time.monotonic(), str(error)
                raise
        finally:
            self._lock.release()

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Keep `ports.Source.declared`."""
        with self._lock:
            return self._followed.history.declared(commits)

    def precedes(self, sha: str, other: str) -> bool:
        """Keep `ports.Source.precedes`."""
        with self._lock:
            return self._followed.history.precedes(sha, other)

    def removals(self, model_keys: Collection[str]) -> Mapping[str, Commit]:
        """Keep `ports.Source.removals`."""
        with self._lock:
            return self._followed.history.removals(model_keys)

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Keep `ports.Source.blobs`."""
        return self.copy.blobs(ids, max_bytes)


def _past(history: History, sha: str) -> Past:
    commit = history.commit(sha)
    assert commit is not None, "a SHA of this history"  # noqa: S101  `starting_with` gave it
    return Past(commit, history.changes_by(sha))
