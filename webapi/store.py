"""The spec repository, written: one commit a change, put on the branch by compare-and-swap.

Nothing is locked between two processes. A writer reads the head, makes a commit on top of it, and moves the branch only
from that head; whoever was slower starts over. A writer that is killed leaves at most objects that nobody refers to, or
git's own lock file on the branch, which is removed when it is old.

Who a model is, `identities` knows; what a commit looks like, `commit_objects`.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from reconciler.core.entities import Commit, Damaged, Entry, Identity
from reconciler.core.history import ACCEPT, PathChange, RawCommit
from reconciler.errors import ArgusError, Moved, SourceUnreachable
from reconciler.names import RULES_FILE, split_path
from reconciler.shell.git import STALE_LOCK_S
from reconciler.shell.git_answers import BlobInfo, scrub
from reconciler.shell.mending import mend
from reconciler.shell.objects import FILE_MODE, FOLDER_MODE, Kind, TreeEntry, object_id, parse_tree, tree_with
from reconciler.shell.patience import take
from reconciler.shell.source import GitSource
from webapi.commit_objects import commit_object, committed_at, tree_of
from webapi.identities import Known
from webapi.spec_reader import FileDamagedError, SpecReader, checked

T = TypeVar("T")

PLAIN = "100644"

_FOLDER = "040000"
_FILE_MODES = {PLAIN, "100755", "120000"}

_AUTHOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9_-])?\Z")

Change: TypeAlias = Callable[[bytes | None], bytes | None]
"""What a file holds (None: no file) to what it is to hold (None: no file). May raise the caller's own errors."""

Subject: TypeAlias = str | Callable[[bytes | None, bytes | None], str]
"""A commit's subject line, or what makes it of the file before and after."""


Condition: TypeAlias = Callable[[str | None], None]
"""Looks at the blob id of a file (None: no file) before it is changed, and raises what the caller wants raised."""


class Overtaken(ArgusError):
    """Somebody else changed the same file between this write's first look and its end. Nothing was written.

    `base` and `current` are the commits that had last changed the file then and have now; None where there was none.
    """

    code = "conflict"

    def __init__(self, path: str, base: str | None, current: str | None) -> None:
        super().__init__(f"{path} was changed by somebody else at the same time; look at it, and try again")
        self.base = base
        self.current = current


class NotAFileError(ArgusError):
    """Where the file belongs, the repository has something else: somebody pushed a folder or a submodule there."""

    code = "conflict"


@dataclass(frozen=True, slots=True)
class Written:
    """A write that landed, or that had nothing to do.

    `commit` is the write's commit, or without a change the one that last changed the file. `revision` is the branch's
    head as the write left it (None: unborn). `identity` is the model whose file it is (or was, when deleted); None
    where the path is not a spec's. `blob` is the file's content as the write left it, None where there is no file.
    """

    commit: str | None
    changed: bool
    revision: str | None
    identity: Identity | None
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """The branch at one commit, around one path: the trees from the root down, and the file.

    `entry` and `content` are what counts (`core.ownership`), `stands` what git has: the same, unless that is held. A
    file that is there has an `entry`; content that is damaged is told as such.
    """

    head: str | None
    committed_at: int
    trees: tuple[bytes, ...]
    content: bytes | Damaged | None
    entry: Entry | None
    stands: Entry | None


@dataclass(slots=True)
class _Write:
    """What one caller wants written, and the branch as the first try saw it."""

    path: str
    change: Change
    author: str
    subject: Subject
    body: str
    model_key: str | None
    condition: Condition | None
    replaces: bool
    first: _Seen | None = None


class SpecStore(SpecReader):
    """The spec repository, read and written; shared by the threads of one API process."""

    def __init__(
        self,
        source: GitSource,
        ledger: Known | None = None,
        *,
        clock: Callable[[], float] = time.time,
        stale_lock_s: float = STALE_LOCK_S,
        sign: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Write to the repository of `source`. `clock` gives seconds since the epoch.

        `sign` puts the platform's signature into a commit object; without it commits are not signed.

        `ledger` is asked for identities that history does not tell any more; without one, only history counts.
        `stale_lock_s` is the age in seconds from which a lock file of git's counts as left behind by a killed process.
        """
        super().__init__(source, ledger)
        self._clock = clock
        self._stale_lock_s = stale_lock_s
        self._sign = sign
        self._turn = threading.Lock()

    def write(
        self,
        path: str,
        change: Change,
        *,
        author: str,
        subject: Subject,
        body: str = "",
        model_key: str | None = None,
        condition: Condition | None = None,
        replaces: bool = False,
    ) -> Written:
        """Make one file what `change` says, in one commit by `author` that changes nothing else.

        `change` is called with what the head holds, and called again with a newer head where somebody was faster; it
        raises what the caller wants raised. What it gives back unchanged makes no commit. With `model_key`, a file
        that belongs to another model (deleted and made anew) counts as absent, and is never overwritten. `condition`
        is asked each time before `change`, unless the file counts as absent. `body` follows the subject in the commit.

        What the file holds may be damaged. A change that `replaces` the whole of it is then called with b"", and what
        it gives back mends the object where it is the same content; any other change raises FileDamagedError.

        Raises Overtaken where somebody else changed the same file meanwhile, Moved where the branch never stood still
        for the source's time limit, Unreachable where git, the remote or the ledger does not answer (the write may have
        landed all the same), NotAFileError, and ValueError on a path or an author that is not one.
        """
        checked(path)
        if not _AUTHOR.match(author):
            raise ValueError(f"{author!r} is no author's name")
        wanted = _Write(path, change, author, subject, body, model_key, condition, replaces)
        return self._in_turn(lambda: self._try(wanted))

    def declare(
        self,
        trailers: Mapping[str, str],
        *,
        author: str,
        subject: str,
        body: str = "",
        condition: Condition | None = None,
    ) -> str:
        """Say something by one commit of `author` with these trailers, which changes no file. Gives its SHA.

        `condition` is asked about the head (its SHA, None for a branch unborn) that the commit goes on top of.

        Raises Moved, Unreachable and ValueError as `write` does, and NotAFileError where the branch is unborn.
        """
        if not _AUTHOR.match(author):
            raise ValueError(f"{author!r} is no author's name")
        said = "\n".join(f"{name}: {scrub(value)}" for name, value in trailers.items())
        message = "\n\n".join(part for part in (scrub(subject), body.strip(), said) if part)
        return self._in_turn(lambda: self._try_declaring(dict(trailers), author, message, condition))

    def _try_declaring(
        self, trailers: Mapping[str, str], author: str, message: str, condition: Condition | None
    ) -> str | None:
        self._copy.fetch_for_write()
        self._source.refuse_if_doubtful()
        [head] = self._copy.healing(lambda: self._git.describe([f"refs/heads/{self._copy.branch}^{{commit}}"]))
        if condition is not None:
            condition(head.id if head is not None else None)
        if head is None:
            raise NotAFileError("the branch has no commit yet, so there is nothing to say something about")
        [found] = self._git.contents([head.id])
        content, commit = self._commit_object(tree_of(found), head.id, committed_at(found), author, message)
        self._git.write_objects([("commit", content)])
        if not self._copy.publish(commit.sha, head.id):
            return None
        self._source.follow(RawCommit(commit, head.id, (), trailers), RULES_FILE)
        return commit.sha

    def _in_turn(self, attempt: Callable[[], T | None]) -> T:
        """Try until something has landed, with other threads of this process one at a time. Raises Moved."""
        deadline = time.monotonic() + self._copy.timeout_s
        # Threads of one process take turns, which spares them losing races to each other.
        if not take(self._turn, self._copy.timeout_s, self._copy.refuse_if_stuck):
            raise Moved("other writes took all the time there was; try again")
        try:
            for number in range(1_000_000):
                if number:
                    # 2, 4, 8 … 256 ms at most, each writer a different part of it
                    time.sleep(random.uniform(0, 0.001 * 2 ** min(number, 8)))
                if (landed := attempt()) is not None:
                    return landed
                if time.monotonic() > deadline:
                    break
                if not self._copy.remote:
                    self._git.clear_stale_locks(self._copy.branch, self._stale_lock_s)
        finally:
            self._turn.release()
        raise Moved(f"branch {self._copy.branch} kept moving for {self._copy.timeout_s:g} s; try again")

    def _try(self, wanted: _Write) -> Written | None:
        """Write on top of the present head; None where the branch was no longer there in the end."""
        path, model_key = wanted.path, wanted.model_key
        self._copy.fetch_for_write()
        self._identities.settle()
        self._source.refuse_if_doubtful()
        seen = self._copy.healing(lambda: self._look(path))
        seen = self._as_it_counts(seen, path) if seen is not None else None
        if seen is None:
            return None
        here = before = _editable(seen, wanted)
        if model_key is not None and before is not None:
            revision, file = self._source.at(path)
            if revision != seen.head or file is None:
                return None
            if file.identity.model_key != model_key:
                before = None
        if wanted.condition is not None and (before is not None or model_key is None):
            wanted.condition(seen.entry.blob if seen.entry else None)
        after = wanted.change(before)
        if before != here and after is not None:
            raise Moved(f"{path} is another model's file now")
        if after is not None:
            is_back = isinstance(seen.content, Damaged) and seen.entry == _plain(after)
            mend(self._git, after, if_missing=is_back)
            before = after if is_back else before
        is_same = after == before and (before is None or (seen.entry and seen.entry.mode == PLAIN))
        if is_same and seen.stands == seen.entry:
            return self._unchanged(seen, path)
        if wanted.first is None:
            wanted.first = seen
        elif wanted.first.entry != seen.entry:
            raise Overtaken(path, self._last_change(wanted.first.head, path), self._last_change(seen.head, path))
        line = wanted.subject if isinstance(wanted.subject, str) else wanted.subject(before, after)
        body = wanted.body.strip()
        if seen.stands != seen.entry and seen.stands == _plain(after):
            # Git has it so already, and that is held: no change of the file could say that it is meant.
            body = f"{body}\n{ACCEPT}: {path}".strip()
        message = "\n\n".join(part for part in (scrub(line), body) if part)
        made = self._commit(seen, path, after, wanted.author, message)
        if not self._copy.publish(made.commit.sha, seen.head):
            return None
        return self._landed(made, path)

    def _landed(self, made: RawCommit, path: str) -> Written:
        done = self._source.follow(made, path)
        if done is None and split_path(path) is not None:
            raise SourceUnreachable(f"commit {made.commit.sha} was taken off the branch as soon as it was on it")
        sha, after = made.commit.sha, made.changes[0].after
        return Written(sha, True, sha, done.identity if done else None, after.blob if after else None)

    def _look(self, path: str) -> _Seen | None:
        """Read what a write at `path` stands on; None where the branch moved while it was read.

        Each id is looked up by the branch's name, so that what was read must prove to be of one commit. The file's is
        taken from its folder: git does not tell a file that is not there from one whose content is missing. A folder
        that is missing so is an error.
        """
        *folders, name = path.split("/")
        ref = f"refs/heads/{self._copy.branch}"
        places = [f"{ref}:{'/'.join(folders[: depth + 1])}" for depth in range(len(folders))]
        head, *above = self._git.describe([f"{ref}^{{commit}}", f"{ref}^{{tree}}", *places])
        if head is None:
            born = self._git.head(self._copy.branch)  # raises where the branch is damaged
            return _Seen(None, 0, (b"",) * len(above), None, None, None) if born is None else None
        if any(found is not None and found.kind != "tree" for found in above):
            raise _not_a_file(path)
        there = [found.id for found in above if found]
        commit, *contents = self._git.contents([head.id, *there])
        trees = (*contents, *[b""] * (len(above) - len(there)))
        entries = [_entry(tree, child) for tree, child in zip(trees, [*folders, name], strict=True)]
        *inside, file = entries
        if tree_of(commit) != there[0] or not self._are_of_one_commit(path, inside, above[1:]):
            return None
        if file is not None and file.mode not in _FILE_MODES:
            raise _not_a_file(path)
        content = self._blob(file.blob) if file is not None else None
        return _Seen(head.id, committed_at(commit), trees, content, file, file)

    def _are_of_one_commit(self, path: str, entries: Sequence[Entry | None], found: Sequence[BlobInfo | None]) -> bool:
        """Say whether the folders above a file are those that each one's parent names.

        Raises NotAFileError, and SourceUnreachable where one of them is damaged.
        """
        for entry, seen in zip(entries, found, strict=True):
            if entry is not None and entry.mode != _FOLDER:
                raise _not_a_file(path)
            if entry is not None and seen is None:
                self._git.contents([entry.blob])
            if (entry and entry.blob) != (seen and seen.id):
                return False
        return True

    def _as_it_counts(self, seen: _Seen, path: str) -> _Seen | None:
        """Put what counts at a path in the place of what is held there; None where the branch has moved on.

        A change that was asked for here must not bring a stranger's with it.
        """
        if not self._is_ruled(path) or seen.head is None:
            return seen
        revision, counts = self._source.counting(path)
        if revision != seen.head:
            return None
        if counts == seen.entry:
            return seen
        return replace(seen, entry=counts, content=None if counts is None else self._blob(counts.blob))

    def _commit(self, seen: _Seen, path: str, after: bytes | None, author: str, message: str) -> RawCommit:
        """Store a commit on top of what was seen."""
        *folders, name = (part.encode() for part in path.split("/"))
        objects: list[tuple[Kind, bytes]] = []
        entry, root = None, ""
        if after is not None:
            objects.append(("blob", after))
            entry = TreeEntry(FILE_MODE, name, bytes.fromhex(object_id("blob", after)))
        written = _plain(after)
        # From the file's folder up to the root. A folder without entries is none, but for the root.
        levels = zip(reversed(seen.trees), reversed([*folders, name]), reversed([b"", *folders]), strict=True)
        for tree, child, parent in levels:
            content = tree_with(tree, child, entry)
            root = object_id("tree", content)
            if content or not parent:
                objects.append(("tree", content))
            entry = TreeEntry(FOLDER_MODE, parent, bytes.fromhex(root)) if content else None
        content, commit = self._commit_object(root, seen.head, seen.committed_at, author, message)
        objects.append(("commit", content))
        self._git.write_objects(objects)
        return RawCommit(commit, seen.head, (PathChange(path, seen.entry, written),))

    def _commit_object(
        self, root: str, parent: str | None, parents_time: int, author: str, message: str
    ) -> tuple[bytes, Commit]:
        # Time never runs backwards along the branch, whatever the clocks of those who write say.
        at = max(int(self._clock()), parents_time)
        return commit_object(root, parent, at, author, message, sign=self._sign)

    def _unchanged(self, seen: _Seen, path: str) -> Written | None:
        """Say who last changed a file that stays as it is; None where the branch has moved on."""
        blob = seen.entry.blob if seen.entry else None
        if seen.head is None or split_path(path) is None:
            return Written(self._last_change(seen.head, path), False, seen.head, None, blob)
        revision, file = self._source.at(path)
        if revision != seen.head:
            return None
        commit, identity = (file.commit.sha, file.identity) if file else (None, None)
        return Written(commit, False, seen.head, identity, blob)

    def _last_change(self, head: str | None, path: str) -> str | None:
        """Give the commit that last changed a file, as of `head`."""
        if head is None:
            return None
        out = self._git.run("log", "-1", "--first-parent", "--format=%H", "--end-of-options", head, "--", path)
        return out.decode().strip() or None


def _editable(seen: _Seen, wanted: _Write) -> bytes | None:
    """Give what a change is made of. Raises FileDamagedError."""
    if not isinstance(seen.content, Damaged):
        return seen.content
    if not wanted.replaces:
        raise FileDamagedError(wanted.path, seen.content)
    return b""


def _not_a_file(path: str) -> NotAFileError:
    return NotAFileError(f"{path} cannot be written: the repository has something else in its place")


def _plain(content: bytes | None) -> Entry | None:
    """Give what a tree holds where a file with this content was written."""
    return Entry(PLAIN, object_id("blob", content)) if content is not None else None


def _entry(tree: bytes, name: str) -> Entry | None:
    """Find a name in a tree."""
    for entry in parse_tree(tree):
        if entry.name == name.encode():
            return Entry(entry.mode.decode().zfill(6), entry.id.hex())
    return None
