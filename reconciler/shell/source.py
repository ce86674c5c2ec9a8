"""The spec repository, read. Effects only: what a commit means is decided in `core.history`."""

from __future__ import annotations

import math
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

from reconciler.core.entities import Commit, Damaged, Declared, Entry, FileChange, SpecFile, Tree
from reconciler.core.history import API_EMAIL, API_NAME, TRAILERS, History, PathChange, RawCommit
from reconciler.core.identity import Carried, moment
from reconciler.core.ownership import Rulings, recalled
from reconciler.errors import BranchInDoubt, Moved, SourceUnreachable
from reconciler.names import RULES_FILE
from reconciler.ports import Reading
from reconciler.settings import Settings
from reconciler.shell.access import Access
from reconciler.shell.fetching import IMPATIENT_PAUSE_S, LONGEST_PAUSE_S, Fetcher
from reconciler.shell.git import Git
from reconciler.shell.git_answers import Outcome, clean, is_object_id, tells_of_damage
from reconciler.shell.ownership import Ownership, Recall

T = TypeVar("T")

MIRROR_FOLDER = "spec-mirror.git"
FETCHED = "argus-fetched"
"""A file in the mirror. Its time is when the mirror was last brought up to date, by whichever process."""

PATIENCE_S = 5.0
"""How long a pass waits for a remote, in seconds, before it goes on with what was last fetched."""

READ_PATIENCE_S = 2.0
"""The same for a request that only reads."""

HEAL_EVERY_S = 60.0
"""How often, at most, a mirror is looked at for damage and thrown away."""

# Where git would see a host: `scheme://…`, or `host:path` without a slash before the colon.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:")

_REMOTE_NAME = "spec"
_TRAILERS = "".join(f"key={name}," for name in TRAILERS)
_COMMIT_FIELDS = ("%H", "%P", "%ct", "%cn", "%ce", "%an", "%ae", "%s", f"%(trailers:{_TRAILERS}unfold=true)")
# `log` is one process where `rev-list | diff-tree --stdin` is two, and on 10,000 commits takes two thirds of the time.
# What a repository's own configuration could do to it is switched off.
LOG = (
    "log", "--first-parent", "--reverse", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-relative", "-O/dev/null",
    "--diff-merges=first-parent", "--ignore-submodules=none", "--no-show-signature", "--no-notes", "--no-color",
    "--format=" + "%x00".join(_COMMIT_FIELDS),
)  # fmt: skip


def folder_of(url: str, home: Path) -> Path:
    """Say where the repository `url` is read: a local one in place, a remote one in its mirror below `home`."""
    return home / MIRROR_FOLDER if is_remote(url) else Path(url).absolute()


def is_remote(url: str) -> bool:
    """Say whether `url` names a repository that has to be mirrored; everything else is a local folder."""
    return _REMOTE.match(url) is not None


@dataclass(frozen=True, slots=True)
class Past:
    """A commit of the branch, and each of its changes of spec files with what happened to that model next."""

    commit: Commit
    changes: tuple[tuple[FileChange, FileChange | None], ...]


class GitSource:
    """`ports.Source` on a real repository, shared by the threads of one process.

    A local bare repository is read in place. A remote one is mirrored into `<home>/spec-mirror.git`: bare, one branch,
    no tags, no submodules. The history is kept in memory, so that a read costs what is new: no process where the
    branch did not move, one where it did. It is walked anew where the branch no longer continues what was read.
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
        without it all of them count.

        Credentials belong into `access`: git itself shows a URL's in its process list.
        """
        self.branch = branch
        self.remote = is_remote(url)
        self.timeout_s = timeout_s
        self._patience_s = patience_s
        self._config = {f"remote.{_REMOTE_NAME}.url": url} if self.remote else {}
        self._access = access
        self._ownership = ownership
        self._doubt: _Doubt | None = None
        self._agreed: str | None = None
        self.git = self._at(folder_of(url, home))
        self._lock = threading.Lock()
        self._carried: Carried | None = None
        self._failed_at, self._failure = -math.inf, ""
        self._history = History()
        self._fetcher = Fetcher(self._fetch)
        self._longest_pause_s = LONGEST_PAUSE_S
        self._healed_at: float | None = None

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
            self.fetch(patience_s=self._patience_s, longest_pause_s=pause_s)
        except SourceUnreachable as error:
            if since is None:
                raise
            trouble = str(error)
        self.agree(since)
        with self._alone():
            self._set_carried(carried)
            if trouble is not None:
                self._advance_to_copy(trouble, since)
                trouble = f"the spec repository does not answer, so its last known revision counts: {trouble}"
            else:
                self._advance()
            if self._doubt is not None:
                trouble = self._doubt.why
            history = self._history
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

    def expect_news(self) -> None:
        """Count the copy of a remote as old, however young it is."""
        self._fetcher.forget()

    def history(self) -> tuple[FileChange, ...]:
        """Keep `ports.Source.history`."""
        with self._lock:
            return self._history.changes

    def tree(self, *, max_age_s: float = 0) -> Tree:
        """Read the newest revision, or the last known one of a remote that does not answer. Raises SourceUnreachable.

        A mirror that this process fetched within the last `max_age_s` seconds is read as it is; a local repository is
        always current. A remote that hangs holds it up for `READ_PATIENCE_S`.
        """
        trouble = None
        try:
            self.fetch(patience_s=min(READ_PATIENCE_S, self._patience_s), max_age_s=max_age_s)
        except SourceUnreachable as error:
            trouble = str(error)
        with self._alone():
            if trouble is not None:
                self._advance_to_copy(trouble)
            else:
                self._advance()
            return self._history.tree

    def at(self, path: str) -> tuple[str | None, SpecFile | None]:
        """Give the newest revision that this machine has, and its spec file at `path`. Raises SourceUnreachable."""
        with self._alone():
            self._advance()
            return self._history.head, self._history.at(path)

    def counting(self, path: str) -> tuple[str | None, Entry | None]:
        """Give the newest revision that this machine has, and what counts there at a spec's path, or at the rules'.

        Raises SourceUnreachable.
        """
        with self._alone():
            self._advance()
            tree, file = self._history.tree, self._history.at(path)
            if path == RULES_FILE:
                return tree.revision, tree.rules[0].entry if tree.rules else None
            return tree.revision, Entry(file.mode, file.blob) if file else None

    @property
    def carried(self) -> Carried | None:
        """The identities that history is read with."""
        return self._carried

    def carry(self, carried: Carried | None) -> None:
        """Read history with these identities from now on (`core.identity.Carried`)."""
        with self._lock:
            self._set_carried(carried)

    def holds(self, revision: str) -> bool:
        """Say whether what was read last has this commit on its branch."""
        with self._lock:
            return self._history.holds(revision)

    def find(self, prefix: str) -> tuple[str, ...]:
        """Give the branch's commits, as of what was read last, whose SHA begins with `prefix`."""
        with self._lock:
            return self._history.find(prefix)

    def life_of(self, model_key: str) -> tuple[FileChange, ...]:
        """Give what commits did to a model's file, oldest first, as of what was read last."""
        with self._lock:
            return self._history.life_of(model_key)

    @property
    def is_ruled(self) -> bool:
        """Say whether commits are ruled upon: then what counts may differ from what the branch holds."""
        return self._ownership is not None

    def agree(self, revision: str | None) -> bool:
        """Rule as the loop did up to `revision`, which it last finished. Gives True where this side ruled otherwise.

        That happens where a key or an address was registered between two processes' looks at a commit. Raises
        LedgerUnreachable.
        """
        if self._ownership is None or revision in {None, self._agreed}:
            return False
        rulings = self._ownership.recall()
        with self._lock:
            self._agreed, history = revision, self._history
            if rulings.revision is None or not history.holds(rulings.revision):
                return False
            mine = {each for each in history.rulings if history.precedes(each[0], rulings.revision)}
            if mine == {each for each in rulings.held if history.holds(each[0])}:
                return False
            self._history = History(carried=self._carried)  # folded anew by the next read
            return True

    def refuse_if_doubtful(self) -> None:
        """Raise BranchInDoubt where nobody vouches for a branch that was rewritten."""
        if self._ownership is not None:
            with self._alone():
                self._advance()
                if self._doubt is not None:
                    raise BranchInDoubt(self._doubt.why)

    @property
    def trouble(self) -> str | None:
        """Why the remote could not be fetched the last time, or its branch does not count; None where all is well."""
        return self._fetcher.trouble or (self._doubt.why if self._doubt is not None else None)

    def fetched_at(self) -> datetime | None:
        """Say when the mirror was last brought up to date (UTC); None for a local repository, or if it never was."""
        try:
            return datetime.fromtimestamp((self.git.folder / FETCHED).stat().st_mtime, tz=UTC) if self.remote else None
        except OSError:
            return None

    def past(self, prefix: str, *, max_age_s: float = 0) -> tuple[Past, ...]:
        """Give the branch's commits whose SHA begins with `prefix`, each with what it did. Raises SourceUnreachable."""
        self.tree(max_age_s=max_age_s)
        with self._lock:
            history = self._history
            return tuple(_past(history, sha) for sha in history.starting_with(prefix))

    def is_after(self, sha: str, revision: str | None) -> bool:
        """Say whether a commit came onto the branch after `revision`, as far as the branch was read last."""
        with self._lock:
            return self._history.is_after(sha, revision)

    def follow(self, published: RawCommit, path: str) -> FileChange | None:
        """Say what a commit that was just published did to the spec file at `path`. Raises SourceUnreachable.

        Where nobody else wrote since the last read, the history goes on with `published` itself, and git is not asked.
        """
        with self._alone():
            if published.parent == self._history.head:
                self._history.extend([published])
            elif self._history.change_by(published.commit.sha, path) is None:  # another thread may have read it already
                self._advance()
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

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Keep `ports.Source.declared`."""
        with self._lock:
            return self._history.declared(commits)

    def precedes(self, sha: str, other: str) -> bool:
        """Keep `ports.Source.precedes`."""
        with self._lock:
            return self._history.precedes(sha, other)

    def removals(self, model_keys: Collection[str]) -> Mapping[str, Commit]:
        """Keep `ports.Source.removals`."""
        with self._lock:
            return self._history.removals(model_keys)

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Keep `ports.Source.blobs`."""
        wanted = list(ids)
        found = self.healing(lambda: self.git.blobs(wanted, max_bytes))
        if self.remote and any(isinstance(each, Damaged) for each in found.values()):
            with suppress(SourceUnreachable):  # what is there goes on to count, and the next look tries again
                if self._heal():
                    return self.git.blobs(wanted, max_bytes)
        return found

    def fetch(
        self,
        *,
        patience_s: float | None = None,
        max_age_s: float = 0,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """Bring the mirror up to date (`Fetcher.bring`); nothing to do for a local repository.

        `patience_s` is `timeout_s` where it is not given. Raises SourceUnreachable.
        """
        if self.remote:
            patience_s = self.timeout_s if patience_s is None else patience_s
            self._fetcher.bring(patience_s=patience_s, max_age_s=max_age_s, longest_pause_s=longest_pause_s)

    def refuse_if_stuck(self) -> None:
        """Raise SourceUnreachable where a fetch from the remote has been under way for too long."""
        self._fetcher.refuse_if_stuck()

    def fetch_for_write(self) -> None:
        """Bring the mirror up to date for somebody who cannot go on without. Raises SourceUnreachable."""
        self.fetch(longest_pause_s=IMPATIENT_PAUSE_S)

    def _at(self, folder: Path) -> Git:
        return Git(folder, self.timeout_s, self._config, self._access)

    def _fetch(self) -> None:
        try:
            self.git.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceUnreachable(f"the mirror cannot be made: {type(error).__name__}") from None
        with self.git.exclusive("argus-fetch", beside=True):
            if not all((self.git.folder / part).exists() for part in ("HEAD", "config", "objects", "refs")):
                self._make(self.git)
            self.git.clear_stale_locks(self.branch)
            outcome = self._fetch_into(self.git)
            if outcome.tells_of_damage:
                self._renew()
                return
            unborn = b"couldn't find remote ref" in outcome.err
            # A branch that was there and is gone is a mistake somewhere, not a wish to remove every model.
            if outcome.status != 0 and (not unborn or self.git.head(self.branch) is not None):
                raise SourceUnreachable(f"git fetch failed: {outcome.complaint}")
            self._stamp(self.git)

    def _make(self, git: Git) -> None:
        git.folder.mkdir(exist_ok=True)
        git.run("init", "--quiet", "--bare", "--template=", f"--initial-branch={self.branch}")

    def _fetch_into(self, git: Git) -> Outcome:
        ref = f"refs/heads/{self.branch}"
        return git.attempt(
            "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
            "--end-of-options", _REMOTE_NAME, f"+{ref}:{ref}",
        )  # fmt: skip

    def _stamp(self, git: Git) -> None:
        with suppress(OSError):  # only status pages look at it
            (git.folder / FETCHED).touch()

    def _renew(self) -> None:
        """Put a mirror that was fetched anew in the place of one that is damaged. Raises SourceUnreachable.

        The caller holds the lock on fetches. What is there stays until the remote has given all of it again.
        """
        folder = self.git.folder
        for leftover in folder.parent.glob(f"{folder.name}.*/"):  # of somebody who was killed at this very place
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = self._at(folder.with_name(f"{folder.name}.{secrets.token_hex(4)}"))
        old = folder.with_name(f"{fresh.folder.name}.old")
        try:
            self._make(fresh)
            outcome = self._fetch_into(fresh)
            if outcome.status != 0:
                raise SourceUnreachable(f"the mirror is damaged, and cannot be fetched anew: {outcome.complaint}")
            self._stamp(fresh)
            folder.rename(old)
            fresh.folder.rename(folder)
        except OSError as error:
            raise SourceUnreachable(f"the mirror is damaged, and cannot be replaced: {type(error).__name__}") from None
        finally:
            shutil.rmtree(fresh.folder, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def healing(self, work: Callable[[], T]) -> T:
        """Read what lies on this disk. A mirror that turns out to be damaged is fetched anew, and read again.

        Raises what `work` raises, and SourceUnreachable.
        """
        try:
            return work()
        except SourceUnreachable as error:
            if not self.remote:
                raise self._damaged(error) from None
            if not tells_of_damage(error) or not self._heal():
                raise
            return work()

    def _heal(self) -> bool:
        """Fetch a mirror that is damaged anew. False where it is not, or was looked at less than `HEAL_EVERY_S` ago.

        Raises SourceUnreachable.
        """
        now = time.monotonic()
        recently = self._healed_at is not None and now - self._healed_at < HEAL_EVERY_S
        if recently or not self.git.folder.is_dir():
            return False
        self._healed_at = now
        with self.git.exclusive("argus-fetch", beside=True):
            if self.git.attempt("fsck", "--no-dangling", "--no-progress").status == 0:
                return False
            self._renew()
        return True

    def _damaged(self, error: SourceUnreachable) -> SourceUnreachable:
        """Say what to do where the one copy is damaged."""
        if not tells_of_damage(error) or not (self.git.folder / "objects").is_dir():
            return error
        return SourceUnreachable(
            f"{error}; the spec repository seems to be damaged, and nothing is changed until it is mended: "
            "`git fsck` names what is broken, and the folder `objects` of a complete clone, copied over its own "
            "(cp -rf), brings it back"
        )

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
                return self._lost(outcome, pushed_too_late(outcome))
            # Where the mirror does not follow, the next fetch does it: what is on the remote is written.
            with suppress(SourceUnreachable), self.git.exclusive("argus-fetch", beside=True, wait_s=1):
                self.git.move_branch(self.branch, new, old)
            self._fetcher.forget()
            return True
        outcome = self.git.move_branch(self.branch, new, old)
        return outcome.status == 0 or self._lost(
            outcome, self.git.head(self.branch) != old or b"File exists" in outcome.err
        )

    def _lost(self, outcome: Outcome, raced: bool) -> bool:
        if not raced:
            raise SourceUnreachable(f"branch {self.branch} cannot be moved: {outcome.complaint}")
        return False

    def _set_carried(self, carried: Carried | None) -> None:
        if carried != self._carried:
            self._carried, self._history = carried, History(carried=carried)

    def _advance_to_copy(self, trouble: str, since: str | None = None) -> None:
        """Make the history end where the copy on this disk does. Raises SourceUnreachable where that is of no use.

        A copy that `since` is not on may be older than what the asker knows: to go back there would undo things.
        """
        try:
            self._advance()
        except SourceUnreachable:
            raise SourceUnreachable(trouble) from None
        if self._history.head is None or (since is not None and not self._history.holds(since)):
            raise SourceUnreachable(trouble)

    def _advance(self) -> None:
        """Make the history end at the head of the copy on this disk."""
        self.healing(self._follow_head)

    def _follow_head(self) -> None:
        head = self.git.head(self.branch)
        if self._doubt is not None and self._doubt.head != head:
            self._doubt = None
        if head == self._history.head or (self._doubt is not None and self._history.head is not None):
            return
        if head is None:
            self._history = History(carried=self._carried)
            return
        try:
            if self._history.head is not None:
                self._extend(self._history, head)
                return
        except _NotContinued:
            pass
        self._begin_anew(head)

    def _begin_anew(self, head: str) -> None:
        rebuilt = History(carried=self._carried)
        try:
            self._extend(rebuilt, head)
        except _Doubt as doubt:
            if self._history.head is None:
                try:
                    self._extend(rebuilt, doubt.known)  # what a forced push drops stays in the repository for a while
                except (_NotContinued, SourceUnreachable):
                    raise BranchInDoubt(doubt.why) from None
                self._history = rebuilt
            self._doubt = doubt
        else:
            self._history = rebuilt

    def _extend(self, history: History, head: str) -> None:
        raw = parse_log(self._log(history.head, head))
        if not raw or raw[-1].commit.sha != head:
            raise SourceUnreachable("git log gave an answer that cannot be read")
        if history.head is not None and raw[0].parent != history.head:
            raise _NotContinued
        raw = self._ruled(raw) if history.head is not None else self._ruled_anew(raw)
        try:
            history.extend(raw)
        except ValueError as error:
            self._history = History(carried=self._carried)
            raise SourceUnreachable(f"the history of branch {self.branch} cannot be read: {error}") from None

    def _ruled(self, commits: list[RawCommit]) -> list[RawCommit]:
        return commits if self._ownership is None else self._ownership.rule(commits)

    def _ruled_anew(self, commits: list[RawCommit]) -> list[RawCommit]:
        """Rule upon a whole branch: as before up to where that was done, anew beyond. Raises _Doubt."""
        if self._ownership is None:
            return commits
        rulings = self._ownership.recall()
        places = {raw.commit.sha: place for place, raw in enumerate(commits)}
        known = [places.get(sha, -1) for sha in (rulings.revision, self._ownership.since) if sha is not None]
        if rulings.revision is not None and rulings.revision not in places:
            known.append(places[self._voucher(commits, rulings.revision)])
        done = max(known, default=-1) + 1
        return [*recalled(commits[:done], rulings), *self._ruled(commits[done:])]

    def _voucher(self, commits: list[RawCommit], known: str) -> str:
        """Give the newest commit by an admin of those that a rewritten branch has and `known` does not. Raises _Doubt.

        One that `known` has vouches for nothing: whoever winds the branch back to it did not make it.
        """
        head = commits[-1].commit.sha
        listed = self.git.attempt("rev-list", "--first-parent", "--end-of-options", head, f"^{known}", "--")
        new = set(listed.out.decode(errors="replace").split())
        mine = [raw for raw in commits if raw.commit.sha in new or listed.status != 0]
        standings = self._ownership.standings(mine) if self._ownership is not None else {}
        for raw in reversed(mine):
            if standings[raw.commit.sha].is_admin:
                return raw.commit.sha
        raise _Doubt(head, known)

    def _log(self, old: str | None, head: str) -> bytes:
        """List the branch's commits after `old` up to `head`, oldest first, with what each changed."""
        outcome = self.git.attempt(*LOG, "--end-of-options", head, *([f"^{old}"] if old else []), "--")
        if outcome.status == 0 and outcome.out:
            return outcome.out
        if old is not None:  # a rewritten branch: nothing is new on it, or its old commits are gone for good
            raise _NotContinued
        raise SourceUnreachable(f"git log failed: {outcome.complaint}")


def _past(history: History, sha: str) -> Past:
    commit = history.commit(sha)
    assert commit is not None, "a SHA of this history"  # noqa: S101  `starting_with` gave it
    return Past(commit, history.changes_by(sha))


class _NotContinued(Moved):
    """The branch's head does not descend, by first parents, from what was read before."""


class _Doubt(Moved):
    """The branch was rewritten, and nobody who may write everywhere stands for that. `known` is what counts instead."""

    def __init__(self, head: str, known: str) -> None:
        self.head = head
        self.known = known
        self.why = (
            f"the branch was rewritten from {known[:12]} to {head[:12]}, and nobody who may write everywhere stands "
            f"for that, so {known[:12]} counts; right would be an admin's commit on top (which takes all that is there "
            "as it stands), or the old branch again"
        )
        super().__init__(self.why)


def parse_log(out: bytes) -> list[RawCommit]:
    r"""Read what `LOG` prints: NUL-ended fields, told apart by their number alone.

    A commit is its nine fields, then `:<mode> <mode> <id> <id> <letter>` and a path for each change, the first after a
    line feed. Git cuts names and messages at a NUL of their own, so nothing a stranger writes moves a field. Raises
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
            changes.append(path_change(tokens[position], tokens[position + 1]))
            position += 2
        found.append(_raw_commit(fields, tuple(changes), known))
    return found


def _raw_commit(fields: Sequence[bytes], changes: tuple[PathChange, ...], known: dict[str, str]) -> RawCommit:
    if len(fields) != len(_COMMIT_FIELDS):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    sha, parents, seconds, committer, committer_email, author, author_email, subject, trailers = fields
    by_api = committer.decode(errors="replace") == API_NAME and committer_email.decode(errors="replace") == API_EMAIL
    name, email = clean(author), clean(author_email)
    commit = Commit(
        sha=sha.decode(errors="replace"),
        author=known.setdefault(name, name),  # ten thousand commits of a few hundred people
        committed_at=moment(seconds.decode(errors="replace")),
        source="api" if by_api else "git",
        subject=clean(subject),
        email=known.setdefault(email, email),
    )
    parent = parents[:40].decode(errors="replace") or None
    return RawCommit(commit, parent, changes, trailers=_trailers(trailers) if trailers else {})


def _trailers(lines: bytes) -> dict[str, str]:
    """Read `<name>: <value>` lines, the names in any case, as people write them. Of two values the later one counts."""
    names = {name.lower(): name for name in TRAILERS}
    said = (line.partition(b":") for line in lines.split(b"\n") if line)
    return {names[key]: clean(value) for name, _, value in said if (key := clean(name).lower()) in names}


def path_change(description: bytes, path: bytes) -> PathChange:
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


def pushed_too_late(outcome: Outcome) -> bool:
    """Say whether a push was refused because the remote's branch had moved (or was moving) meanwhile."""
    said = outcome.out + outcome.err
    reasons = (b"fetch first", b"non-fast-forward", b"cannot lock ref", b"failed to update ref", b"stale info",
               b"incorrect old value")  # fmt: skip
    return any(reason in said for reason in reasons) and b"hook declined" not in said
