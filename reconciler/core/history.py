"""The branch as a fold: commits, oldest first, become the files of today and everything that ever happened to them.

A file counts at the commit that brought it onto the branch: history is walked along first parents, and a merge is one
commit that brought all that it changed against its first parent. Content is never looked at here, so every file at a
spec's path has an identity, valid or not.

A change that is held (`core.ownership`) is told and does not happen: the files of today are what the last commit that
counts made of each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from reconciler.core.entities import (
    ChangeKind,
    Commit,
    Declared,
    Entry,
    FileChange,
    Identity,
    RulesVersion,
    SpecFile,
    Tree,
)
from reconciler.core.identity import Carried, Fingerprint, Keys, fingerprint, identity_of
from reconciler.names import RULES_FILE, spelt, split_path, user_of_path

API_NAME = "Argus"
API_EMAIL = "argus@localhost"
"""The committer of every commit that the API makes; anybody else's commits came by git."""

UNBORN = "0" * 40
"""The SHA that stands for a commit that would bring a change onto the branch."""

ALLOW_REMOVAL = "Argus-Allow-Removal"
OVERRIDE_FREEZE = "Argus-Override-Freeze"
ACCEPT = "Argus-Accept"
MOST_RULES = 20
"""How many versions of the rules are remembered: enough to find one that can be read."""

TRAILERS = (ALLOW_REMOVAL, OVERRIDE_FREEZE, ACCEPT)
"""What a commit's message may say to Argus, in its last paragraph (git-interpret-trailers)."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """What one commit did at one path of the repository, any path. None where there is no file."""

    path: str
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class RawCommit:
    """One commit of the branch with its first parent and all that it changed against that parent.

    `trailers` are those of its message that Argus reads (`TRAILERS`), by their names as they stand there.

    `held` says why it does not count at a path (`core.ownership`); `accepted` are paths that it takes as they stand,
    after its own changes. `speaks_for` are the users for whose models its `ALLOW_REMOVAL` counts; None: everybody's.
    """

    commit: Commit
    parent: str | None
    changes: tuple[PathChange, ...]
    trailers: Mapping[str, str] = field(default_factory=dict, hash=False)
    held: Mapping[str, str] = field(default_factory=dict, hash=False)
    accepted: tuple[str, ...] = ()
    speaks_for: frozenset[str] | None = None


class History:
    """A branch from its first commit to `head`. Owned and extended by one reader; what it gives out is immutable."""

    def __init__(self, fingerprint: Fingerprint = fingerprint, carried: Carried | None = None) -> None:
        """Begin before the first commit. `carried` says who is who from its revision on, where that comes by."""
        self._keys = Keys(fingerprint)
        self._carried = carried
        self._files: dict[str, SpecFile] = {}  # by path
        self._user_files: defaultdict[str, set[str]] = defaultdict(set)
        self._standing: dict[str, Entry | None] = {}  # what git has, by path, where that is held
        self._never: dict[str, Identity] = {}  # of files that are held from their first commit on, by path
        self._rulings: set[tuple[str, str]] = set()
        self._rules_held: str | None = None
        self._changes: list[FileChange] = []
        self._seen: dict[str, int] = {}  # SHA -> how many of `_changes` had happened by then, in the branch's order
        self._commits: dict[str, Commit] = {}
        self._places: dict[str, int] = {}  # SHA -> how many commits came before it
        self._declared: list[Declared] = []
        self._removals: dict[str, Commit] = {}  # by model key
        self._rules: list[RulesVersion] = []
        self._head: str | None = None
        self._tree = Tree(revision=None, files=MappingProxyType({}), users=frozenset())

    @property
    def head(self) -> str | None:
        """The newest commit's SHA; None before the first."""
        return self._head

    @property
    def tree(self) -> Tree:
        """The repository at `head`."""
        return self._tree

    def at(self, path: str) -> SpecFile | None:
        """Give the spec file at `path`, as of `head`."""
        return self._files.get(path)

    def extend(self, commits: Iterable[RawCommit]) -> None:
        """Fold in the commits that follow `head`, oldest first.

        Raises ValueError where a commit's first parent is not the commit before it; what came before that commit is
        folded in.
        """
        try:
            for raw in commits:
                if raw.parent != self._head:
                    raise ValueError(f"commit {raw.commit.sha} does not follow {self._head}")
                self._fold(raw)
        finally:
            if self._tree.revision != self._head:
                self._tree = Tree(
                    revision=self._head,
                    files=MappingProxyType({file.identity.model_key: file for file in self._files.values()}),
                    users=frozenset(self._user_files),
                    tip=self._commits.get(self._head or ""),
                    rules=tuple(self._rules[::-1]),
                )

    def holds(self, revision: str) -> bool:
        """Say whether `revision` is a commit of this branch, along first parents."""
        return revision in self._seen

    def find(self, prefix: str) -> tuple[str, ...]:
        """Give this branch's commits, along first parents, whose SHA begins with `prefix`."""
        return (prefix,) if prefix in self._seen else tuple(sha for sha in self._seen if sha.startswith(prefix))

    def life_of(self, model_key: str) -> tuple[FileChange, ...]:
        """Give what commits did to one model's file, oldest first, from the one that brought it; () if unknown.

        What happened before an identity was carried over is found by the path.
        """
        found: list[FileChange] = []
        path = None
        for change in reversed(self._changes):
            if path is None and change.identity.model_key != model_key and self._key_at(change) != model_key:
                continue
            if path not in {None, change.identity.path}:
                continue
            path = change.identity.path
            found.append(change)
            if change.kind is ChangeKind.CREATED:
                break
        return tuple(reversed(found))

    def _key_at(self, change: FileChange) -> str | None:
        """Give the key of the model that is at a change's path today."""
        file = self._files.get(change.identity.path)
        return file.identity.model_key if file is not None else None

    def changes_since(self, revision: str) -> tuple[FileChange, ...] | None:
        """Give what happened after `revision`, oldest first; None where `revision` is not on this branch."""
        seen = self._seen.get(revision)
        return None if seen is None else tuple(self._changes[seen:])

    def change_by(self, sha: str, path: str) -> FileChange | None:
        """Give what commit `sha` did to the spec file at `path`; None where nothing."""
        end = self._seen.get(sha, 0)
        for change in reversed(self._changes[:end]):
            if change.commit.sha != sha:
                return None
            if change.identity.path == path:
                return change
        return None

    @property
    def changes(self) -> tuple[FileChange, ...]:
        """Everything that ever happened to spec files, oldest first."""
        return tuple(self._changes)

    @property
    def rulings(self) -> frozenset[tuple[str, str]]:
        """What does not count on this branch (`ownership.Ruling`)."""
        return frozenset(self._rulings)

    @property
    def rules_held(self) -> str | None:
        """Why the newest change of the rules does not count; None where it does."""
        return self._rules_held if RULES_FILE in self._standing else None

    @property
    def standing(self) -> tuple[FileChange, ...]:
        """The newest change of each spec file that is held as it stands in git, oldest first."""
        found: dict[str, FileChange] = {}
        for change in reversed(self._changes) if self._standing else ():
            if change.identity.path in self._standing:
                found.setdefault(change.identity.path, change)
        return tuple(reversed(found.values()))

    def commit(self, sha: str) -> Commit | None:
        """Give a commit of the branch by its full SHA; None where it is not on the branch."""
        return self._commits.get(sha)

    def declared(self, commits: Collection[str]) -> tuple[Declared, ...]:
        """Give the commits with trailers that are at or after the earliest of `commits` on the branch, oldest first.

        Of a commit that is not on the branch nobody can say what came after it: only the newest one counts for it.
        """
        newest = len(self._places) - 1
        first = min((self._places.get(sha, newest) for sha in commits), default=newest + 1)
        return tuple(each for each in self._declared if self._places[each.commit.sha] >= first)

    def removals(self, model_keys: Collection[str]) -> dict[str, Commit]:
        """Give the commits that took these models' files away, as far as the branch has any."""
        return {key: self._removals[key] for key in model_keys if key in self._removals}

    def precedes(self, sha: str, other: str) -> bool:
        """Say whether both commits are on the branch, and `sha` is `other` or came before it."""
        return sha in self._places and other in self._places and self._places[sha] <= self._places[other]

    def starting_with(self, prefix: str) -> list[str]:
        """Give the full SHAs of the branch's commits that begin with `prefix`."""
        return [sha for sha in self._seen if sha.startswith(prefix)]

    def is_after(self, sha: str, revision: str | None) -> bool:
        """Say whether a commit that touched spec files came after `revision`. Everything came after an unknown one."""
        return self._seen.get(sha, 0) > self._seen.get(revision or "", -1)

    def changes_by(self, sha: str) -> tuple[tuple[FileChange, FileChange | None], ...]:
        """Give what commit `sha` did to spec files, by path, each with what happened next to the same model."""
        begin = end = self._seen.get(sha, 0)
        while begin and self._changes[begin - 1].commit.sha == sha:
            begin -= 1
        following: dict[str, FileChange] = {}
        for later in self._changes[end:] if begin < end else ():
            if later.held is not None:
                continue
            following.setdefault(later.identity.model_key, later)
        return tuple((change, following.get(change.identity.model_key)) for change in self._changes[begin:end])

    def _fold(self, raw: RawCommit) -> None:
        for change in sorted(raw.changes, key=lambda change: change.path):
            if change.path in raw.held:
                self._hold(raw.commit, change, raw.held[change.path])
            else:
                self._standing.pop(change.path, None)
                self._apply(raw.commit, change)
        self._rules_held = raw.held.get(RULES_FILE, self._rules_held)
        self._rulings |= {(raw.commit.sha, spelt(name)) for name in raw.held}
        for path in raw.accepted:
            if path in self._standing:
                self._apply(raw.commit, PathChange(path, None, self._standing.pop(path)))
        self._head = raw.commit.sha
        self._seen[raw.commit.sha] = len(self._changes)
        self._commits[raw.commit.sha] = raw.commit
        self._places[raw.commit.sha] = len(self._places)
        if raw.trailers:
            self._declared.append(Declared(raw.commit, raw.trailers, raw.speaks_for))
        if self._carried is not None and self._carried.revision == raw.commit.sha:
            self._adopt(self._carried)

    def _adopt(self, carried: Carried) -> None:
        for path, key in carried.keys.items():
            self._keys.take(key)
            if path in self._files:
                self._files[path] = replace(self._files[path], identity=identity_of(key, path))

    def _hold(self, commit: Commit, change: PathChange, why: str) -> None:
        """Tell of a change that does not count."""
        now = self._files.get(change.path)
        if change.after == (Entry(now.mode, now.blob) if now else None) and split_path(change.path):
            self._standing.pop(change.path, None)  # it is as it was: nothing that stands is held
        else:
            self._standing[change.path] = change.after
        name = split_path(change.path)
        if name is None:
            return
        identity = now.identity if now else self._never.get(change.path)
        if identity is None:
            identity = self._keys.issue(name, change.path, commit.sha, commit.committed_at)
            self._never[change.path] = identity
        wanted = SpecFile(identity, change.after.blob, change.after.mode, commit) if change.after else None
        kind = ChangeKind.MODIFIED if wanted else ChangeKind.DELETED
        if now is None and wanted:
            kind = ChangeKind.CREATED
        self._changes.append(FileChange(kind, identity, commit, now, wanted, held=why))

    def _count(self, change: PathChange) -> None:
        user_id = user_of_path(change.path)
        if user_id is None:
            return
        if change.after is not None:
            self._user_files[user_id].add(change.path)
        else:
            self._user_files[user_id].discard(change.path)
            if not self._user_files[user_id]:
                del self._user_files[user_id]

    def _apply(self, commit: Commit, change: PathChange) -> None:
        self._count(change)
        if change.path == RULES_FILE:
            self._rules = [*self._rules[1 - MOST_RULES :], RulesVersion(commit, change.after)]
        name = split_path(change.path)
        if name is None:
            return
        before, never = self._files.pop(change.path, None), self._never.pop(change.path, None)
        identity = before.identity if before else never
        after = None
        if change.after is not None:
            identity = identity or self._keys.issue(name, change.path, commit.sha, commit.committed_at)
            after = self._files[change.path] = SpecFile(identity, change.after.blob, change.after.mode, commit)
        if identity is not None:
            self._changes.append(_file_change(commit, identity, before, after))
        if before and not after:
            self._removals[before.identity.model_key] = commit


def _file_change(commit: Commit, identity: Identity, before: SpecFile | None, after: SpecFile | None) -> FileChange:
    if after is None:
        kind = ChangeKind.DELETED
    elif before is None:
        kind = ChangeKind.CREATED
    else:
        kind = ChangeKind.MODIFIED
    return FileChange(kind=kind, identity=identity, commit=commit, before=before, after=after)
