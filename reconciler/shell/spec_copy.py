"""The copy of the spec repository on this disk: a local repository itself, or the mirror of a remote one.

It is brought up to date, fetched anew where it is damaged, and what is written goes out from it. What its commits mean
is not known here.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from reconciler.core.entities import Damaged
from reconciler.errors import SourceUnreachable
from reconciler.shell.access import Access
from reconciler.shell.fetching import IMPATIENT_PAUSE_S, LONGEST_PAUSE_S, Fetcher
from reconciler.shell.git import Git
from reconciler.shell.git_answers import Outcome, tells_of_damage

T = TypeVar("T")

MIRROR_FOLDER = "spec-mirror.git"
FETCHED = "argus-fetched"
"""A file in the mirror. Its time is when the mirror was last brought up to date, by whichever process."""

HEAL_EVERY_S = 60.0
"""How often, at most, a mirror is looked at for damage and thrown away."""

# Where git would see a host: `scheme://…`, or `host:path` without a slash before the colon.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:")

_REMOTE_NAME = "spec"


def folder_of(url: str, home: Path) -> Path:
    """Say where the repository `url` is read: a local one in place, a remote one in its mirror below `home`."""
    return home / MIRROR_FOLDER if is_remote(url) else Path(url).absolute()


def is_remote(url: str) -> bool:
    """Say whether `url` names a repository that has to be mirrored; everything else is a local folder."""
    return _REMOTE.match(url) is not None


class SpecCopy:
    """The repository as this disk has it, shared by the threads of one process.

    A local bare repository is read in place. A remote one is mirrored into `<home>/spec-mirror.git`: bare, one branch,
    no tags, no submodules.
    """

    def __init__(self, url: str, *, home: Path, branch: str, timeout_s: float, access: Access | None) -> None:
        """Have a copy of `branch` of `url`. `timeout_s` limits each git command."""
        self.branch = branch
        self.remote = is_remote(url)
        self.timeout_s = timeout_s
        self._config = {f"remote.{_REMOTE_NAME}.url": url} if self.remote else {}
        self._access = access
        self.git = self._at(folder_of(url, home))
        self._fetcher = Fetcher(self._fetch)
        self._healed_at: float | None = None

    @property
    def trouble(self) -> str | None:
        """Why the remote could not be fetched the last time; None where it could, and for a local repository."""
        return self._fetcher.trouble

    def expect_news(self) -> None:
        """Count the copy of a remote as old, however young it is."""
        self._fetcher.forget()

    def fetched_at(self) -> datetime | None:
        """Say when the mirror was last brought up to date (UTC); None for a local repository, or if it never was."""
        try:
            return datetime.fromtimestamp((self.git.folder / FETCHED).stat().st_mtime, tz=UTC) if self.remote else None
        except OSError:
            return None

    def blobs(self, ids: Iterable[str], max_bytes: int) -> Mapping[str, bytes | Damaged]:
        """Read blobs (`Git.blobs`). A mirror that turns out to have damaged ones is fetched anew, and read again.

        Raises SourceUnreachable.
        """
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
        """Raise SourceUnreachable where the remote or git itself lets others wait already."""
        self._fetcher.refuse_if_stuck()
        self.git.patience.refuse_if_tried()

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


def pushed_too_late(outcome: Outcome) -> bool:
    """Say whether a push was refused because the remote's branch had moved (or was moving) meanwhile."""
    said = outcome.out + outcome.err
    reasons = (b"fetch first", b"non-fast-forward", b"cannot lock ref", b"failed to update ref", b"stale info",
               b"incorrect old value")  # fmt: skip
    return any(reason in said for reason in reasons) and b"hook declined" not in said
