"""The spec repository, read. Effects only: what a commit means is decided in `core.history`."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from reconciler.core.entities import Commit, FileChange, SpecFile, Tree
from reconciler.core.history import API_EMAIL, API_NAME, Entry, History, PathChange, RawCommit
from reconciler.core.identity import moment
from reconciler.errors import Moved, SourceUnreachable
from reconciler.ports import Reading
from reconciler.settings import Settings
from reconciler.shell.git import Git, Outcome, clean, is_object_id

MIRROR_FOLDER = "spec-mirror.git"

# Where git would see a host: `scheme://…`, or `host:path` without a slash before the colon.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:")

_REMOTE_NAME = "spec"
_COMMIT_FIELDS = ("%H", "%P", "%ct", "%cn", "%ce", "%an", "%s")
# `log` is one process where `rev-list | diff-tree --stdin` is two, and on 10,000 commits takes two thirds of the time.
# What a repository's own configuration could do to it is switched off.
_LOG = (
    "log", "--first-parent", "--reverse", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-relative", "-O/dev/null",
    "--diff-merges=first-parent", "--ignore-submodules=none", "--no-show-signature", "--no-notes", "--no-color",
    "--format=" + "%x00".join(_COMMIT_FIELDS),
)  # fmt: skip


def is_remote(url: str) -> bool:
    """Say whether `url` names a repository that has to be mirrored; everything else is a local folder."""
    return _REMOTE.match(url) is not None


class GitSource:
    """`ports.Source` on a real repository, shared by the threads of one process.

    A local bare repository is read in place. A remote one is mirrored into `<home>/spec-mirror.git`: bare, one branch,
    no tags, no submodules. The history is kept in memory, so that a read costs what is new: one process where the
    branch did not move, two where it did. It is walked anew where the branch no longer continues what was read.
    """

    def __init__(self, url: str, *, home: Path, branch: str = "main", timeout_s: float = 30) -> None:
        """Read `branch` of `url`. `timeout_s` limits each git command, not a whole read.

        Credentials belong into ssh, ~/.netrc or GIT_ASKPASS: git itself shows a URL's in its process list.
        """
        self.branch = branch
        self.remote = is_remote(url)
        if self.remote:
            self.git = Git(home / MIRROR_FOLDER, timeout_s, {f"remote.{_REMOTE_NAME}.url": url})
        else:
            self.git = Git(Path(url).absolute(), timeout_s)
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._failed_at, self._failure = -math.inf, ""
        self._history = History()
        self._fetched_at = -math.inf

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Give the source that the configuration names."""
        repo = settings.spec_repo
        return cls(settings.spec_repo_url, home=settings.home, branch=repo.branch, timeout_s=repo.timeout_s)

    def read(self, since: str | None) -> Reading:
        """Keep `ports.Source.read`."""
        with self._alone():
            self._advance(fetch=True)
            changes = self._history.changes_since(since) if since is not None else None
            return Reading(tree=self._history.tree, changes=changes)

    def tree(self, *, max_age_s: float = 0) -> Tree:
        """Read the newest revision. Raises SourceUnreachable.

        A mirror that this process fetched within the last `max_age_s` seconds is read as it is; a local repository is
        always current.
        """
        with self._alone():
            self._advance(fetch=time.monotonic() - self._fetched_at > max_age_s)
            return self._history.tree

    def at(self, path: str) -> tuple[str | None, SpecFile | None]:
        """Give the newest revision that this machine has, and its spec file at `path`. Raises SourceUnreachable."""
        with self._alone():
            self._advance(fetch=False)
            return self._history.head, self._history.at(path)

    def follow(self, published: RawCommit, path: str) -> FileChange | None:
        """Say what a commit that was just published did to the spec file at `path`. Raises SourceUnreachable.

        Where nobody else wrote since the last read, the history goes on with `published` itself, and git is not asked.
        """
        with self._alone():
            if published.parent == self._history.head:
                self._history.extend([published])
            elif self._history.change_by(published.commit.sha, path) is None:  # another thread may have read it already
                self._advance(fetch=False)
            return self._history.change_by(published.commit.sha, path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only thread inside. Raises SourceUnreachable.

        Who waited while another found git unreachable shares that answer: sixteen requests that found it out one after
        the other would take sixteen times the limit.
        """
        began = time.monotonic()
        limit_s = 2 * self.timeout_s  # long enough to hear what became of a command that began just before
        if not self._lock.acquire(timeout=limit_s):
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

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes]:
        """Keep `ports.Source.blobs`."""
        return self.git.blobs(ids, max_bytes)

    def fetch(self) -> None:
        """Bring the mirror up to date; nothing to do for a local repository. Raises SourceUnreachable."""
        if not self.remote:
            return
        ref = f"refs/heads/{self.branch}"
        try:
            self.git.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceUnreachable(f"the mirror cannot be made: {type(error).__name__}") from None
        with self.git.exclusive("argus-fetch"):
            if not all((self.git.folder / part).exists() for part in ("HEAD", "config", "objects", "refs")):
                self.git.run("init", "--quiet", "--bare", "--template=", f"--initial-branch={self.branch}")
            self.git.clear_stale_locks(self.branch)
            outcome = self.git.attempt(
                "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
                "--end-of-options", _REMOTE_NAME, f"+{ref}:{ref}",
            )  # fmt: skip
            if outcome.status == 0:
                self._fetched_at = time.monotonic()
                return
            unborn = b"couldn't find remote ref" in outcome.err
            # A branch that was there and is gone is a mistake somewhere, not a wish to remove every model.
            if not unborn or self.git.head(self.branch) is not None:
                raise SourceUnreachable(f"git fetch failed: {outcome.complaint}")

    def publish(self, new: str, old: str | None) -> bool:
        """Move the branch from `old` to its child `new`, where it is still at `old`; False where somebody was faster.

        Never forces: a remote takes `new` only as a continuation of what it has. Raises SourceUnreachable where git or
        the remote refuses for another reason; after a time-out it is unknown whether the branch moved.
        """
        if self.remote:
            ref = f"refs/heads/{self.branch}"
            outcome = self.git.attempt(
                "push", "--porcelain", "--no-verify", "--end-of-options", _REMOTE_NAME, f"{new}:{ref}"
            )
            if outcome.status != 0:
                return self._lost(outcome, _pushed_too_late(outcome))
            with self.git.exclusive("argus-fetch"):
                self.git.move_branch(self.branch, new, old)  # where it fails, the next fetch does it
            return True
        outcome = self.git.move_branch(self.branch, new, old)
        return outcome.status == 0 or self._lost(
            outcome, self.git.head(self.branch) != old or b"File exists" in outcome.err
        )

    def _lost(self, outcome: Outcome, raced: bool) -> bool:
        if not raced:
            raise SourceUnreachable(f"branch {self.branch} cannot be moved: {outcome.complaint}")
        return False

    def _advance(self, *, fetch: bool) -> None:
        """Make the history end at the branch's head."""
        if fetch:
            self.fetch()
        head = self.git.head(self.branch)
        if head == self._history.head:
            return
        if head is None:
            self._history = History()
            return
        try:
            self._extend(self._history, head)
        except _NotContinued:
            rebuilt = History()
            self._extend(rebuilt, head)
            self._history = rebuilt

    def _extend(self, history: History, head: str) -> None:
        raw = parse_log(self._log(history.head, head))
        if not raw or raw[-1].commit.sha != head:
            raise SourceUnreachable("git log gave an answer that cannot be read")
        if history.head is not None and raw[0].parent != history.head:
            raise _NotContinued
        try:
            history.extend(raw)
        except ValueError as error:
            self._history = History()
            raise SourceUnreachable(f"the history of branch {self.branch} cannot be read: {error}") from None

    def _log(self, old: str | None, head: str) -> bytes:
        """List the branch's commits after `old` up to `head`, oldest first, with what each changed."""
        outcome = self.git.attempt(*_LOG, "--end-of-options", head, *([f"^{old}"] if old else []), "--")
        if outcome.status == 0 and outcome.out:
            return outcome.out
        if old is not None:  # a rewritten branch: nothing is new on it, or its old commits are gone for good
            raise _NotContinued
        raise SourceUnreachable(f"git log failed: {outcome.complaint}")


class _NotContinued(Moved):
    """The branch's head does not descend, by first parents, from what was read before."""


def parse_log(out: bytes) -> list[RawCommit]:
    r"""Read what `_LOG` prints: NUL-ended fields, told apart by their number alone.

    A commit is its seven fields, then `:<mode> <mode> <id> <id> <letter>` and a path for each change, the first after a
    line feed. Git cuts names and subjects at a NUL of their own, so nothing a stranger writes moves a field. Raises
    SourceUnreachable on anything else.
    """
    tokens = out.split(b"\0")
    tokens.pop()  # what follows the last NUL: nothing
    found: list[RawCommit] = []
    known: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        fields = tokens[position : position + len(_COMMIT_FIELDS)]
        position += len(_COMMIT_FIELDS)
        changes = []
        while position + 1 < len(tokens) and tokens[position].startswith((b"\n:", b":")):
            changes.append(_change(tokens[position], tokens[position + 1]))
            position += 2
        found.append(_raw_commit(fields, tuple(changes), known))
    return found


def _raw_commit(fields: Sequence[bytes], changes: tuple[PathChange, ...], known: dict[str, str]) -> RawCommit:
    if len(fields) != len(_COMMIT_FIELDS):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    sha, parents, seconds, committer, email, author, subject = fields
    by_api = committer.decode(errors="replace") == API_NAME and email.decode(errors="replace") == API_EMAIL
    name = clean(author)
    commit = Commit(
        sha=sha.decode(errors="replace"),
        author=known.setdefault(name, name),  # ten thousand commits of a few hundred people
        committed_at=moment(seconds.decode(errors="replace")),
        source="api" if by_api else "git",
        subject=clean(subject),
    )
    parent = parents[:40].decode(errors="replace") or None
    return RawCommit(commit=commit, parent=parent, changes=changes)


def _change(description: bytes, path: bytes) -> PathChange:
    """Read `:<6 digits> <6 digits> <40 digits> <40 digits> <letter>`."""
    text = description.decode(errors="replace").lstrip("\n")
    if len(text) != 98 or not is_object_id(text[56:96]):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    return PathChange(
        path=path.decode(errors="surrogateescape"),
        before=_entry(text[1:7], text[15:55]),
        after=_entry(text[8:14], text[56:96]),
    )


def _entry(mode: str, blob: str) -> Entry | None:
    return None if mode == "000000" else Entry(mode=mode, blob=blob)


def _pushed_too_late(outcome: Outcome) -> bool:
    """Say whether a push was refused because the remote's branch had moved (or was moving) meanwhile."""
    said = outcome.out + outcome.err
    reasons = (b"fetch first", b"non-fast-forward", b"cannot lock ref", b"failed to update ref", b"stale info")
    return any(reason in said for reason in reasons) and b"hook declined" not in said
