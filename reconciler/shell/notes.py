"""Verdicts as git notes (`ports.Notes`): `refs/notes/argus`, in the layout of git's own `git notes`.

Notes are written on the object database, as `git notes` would: a tree whose entries are named after the commits that
they are about. It is fanned out once (`ab/cdef…`), which git reads at any size, and deeper where git itself made it so.
`git notes add` is not used: it takes a process a note, and puts its text through an editor's clean-up.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.errors import SourceUnreachable
from reconciler.settings import Settings
from reconciler.shell.access import Access
from reconciler.shell.git import Git
from reconciler.shell.git_answers import is_object_id
from reconciler.shell.objects import (
    FILE_MODE,
    FOLDER_MODE,
    Kind,
    TreeEntry,
    object_id,
    pack,
    parse_tree,
    tree_of,
)
from reconciler.shell.spec_copy import MIRROR_FOLDER, is_remote, pushed_too_late

log = logging.getLogger(__name__)

REF = "refs/notes/argus"
LONGEST_NOTE = 4 * 1024 * 1024
MOST_READ = 64 * 1024 * 1024
"""Bytes that are read back of one note, and of all of them together."""

TIMEOUT_S = 10.0
"""A remote that takes the branch within `spec_repo.timeout_s` and notes not within this has to be asked again."""

_REMOTE_NAME = "spec"
_ATTEMPTS = 6
_LOOSE = 60
"""From so many objects on they are stored as one pack: each loose one costs an fsync of its own."""


@dataclass(slots=True)
class _Folder:
    """A folder of the notes' tree, with those below it that change."""

    entries: dict[bytes, TreeEntry] = field(default_factory=dict)
    below: dict[bytes, _Folder] = field(default_factory=dict)


class GitNotes:
    """`ports.Notes` in the spec repository, pushed where that is a remote one. Used by one thread."""

    def __init__(self, url: str, *, home: Path, timeout_s: float = TIMEOUT_S, access: Access | None = None) -> None:
        """Keep notes in the repository `url`, which `access` leads to. `timeout_s` limits each git command."""
        self._remote = is_remote(url)
        if self._remote:
            self._git = Git(home / MIRROR_FOLDER, timeout_s, {f"remote.{_REMOTE_NAME}.url": url}, access=access)
        else:
            self._git = Git(Path(url).absolute(), timeout_s)
        self._is_current = not self._remote

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Give the notes of the repository that the configuration names."""
        timeout_s = min(TIMEOUT_S, settings.spec_repo.timeout_s)
        access = Access.from_settings(settings)
        return cls(settings.spec_repo_url, home=settings.home, timeout_s=timeout_s, access=access)

    def read(self, commits: Sequence[str]) -> Mapping[str, str]:
        """Keep `ports.Notes.read`: at most `LONGEST_NOTE` bytes of one, and `MOST_READ` of all."""
        self._fetch()
        try:
            return self._read(commits)
        except SourceUnreachable as error:
            log.warning("%s cannot be read, and is passed over: %s", REF, error)
            return {}

    def publish(self, notes: Mapping[str, str]) -> None:
        """Keep `ports.Notes.publish`: one commit on the ref, none where it would change nothing.

        Whoever else writes the ref at the same time is merged with: this side's notes are put on top of theirs.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.005 * 2**attempt))
            if not self._is_current:
                self._fetch()
            old = self._head()
            new = self._commit(old, notes)
            if new is None or self._move(new, old):
                return
            self._is_current = not self._remote
            self._git.clear_stale_ref_lock(REF)
        raise SourceUnreachable(f"{REF} kept moving")

    def _read(self, commits: Sequence[str]) -> dict[str, str]:
        head = self._head()
        if head is None:
            return {}
        there = _listed(self._git.run("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", head))
        wanted = {sha: there[sha] for sha in commits if sha in there}
        chosen: dict[str, str] = {}
        room = MOST_READ
        for (sha, blob), info in zip(wanted.items(), self._git.describe(list(wanted.values())), strict=True):
            if info is not None and info.kind == "blob" and info.size <= min(LONGEST_NOTE, room):
                chosen[sha] = blob
                room -= info.size
        contents = self._git.contents(list(chosen.values()))
        return {sha: content.decode(errors="replace") for sha, content in zip(chosen, contents, strict=True)}

    def _head(self) -> str | None:
        outcome = self._git.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{REF}^{{commit}}")
        if outcome.status == 0:
            return outcome.out.decode().strip()
        if outcome.status != 1 or outcome.err or (self._git.folder / REF).is_file():
            raise SourceUnreachable(f"{REF} cannot be read: {outcome.complaint}")
        return None

    def _fetch(self) -> None:
        """Bring the remote's notes here. Where it has none, ours stay, and the next push brings them all."""
        if not self._remote:
            return
        with self._git.exclusive("argus-fetch"):
            outcome = self._git.attempt(
                "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
                "--end-of-options", _REMOTE_NAME, f"+{REF}:{REF}",
            )  # fmt: skip
        if outcome.status != 0 and b"couldn't find remote ref" not in outcome.err:
            raise SourceUnreachable(f"{REF} cannot be fetched: {outcome.complaint}")
        self._is_current = True

    def _commit(self, old: str | None, notes: Mapping[str, str]) -> str | None:
        """Store a commit with these notes on top of `old`; None where `old` has them all."""
        before = self._git.contents([f"{old}^{{tree}}"])[0] if old else b""
        objects: list[tuple[Kind, bytes]] = []
        blobs: dict[bytes, bytes] = {}
        for sha, text in notes.items():
            content = text.encode()
            objects.append(("blob", content))
            blobs[sha.encode()] = bytes.fromhex(object_id("blob", content))
        try:
            root = _Folder(_by_name(before))
            self._put(root, blobs)
        except ValueError:
            raise SourceUnreachable(f"{REF} holds what is no tree") from None
        tree = _stored(root, objects)
        if tree == before:
            return None
        by = f"{API_NAME} <{API_EMAIL}> {int(time.time())} +0000"
        parents = [f"parent {old}"] if old else []
        subject = f"Judge {len(notes)} commit{'s' * (len(notes) != 1)}"
        lines = [f"tree {object_id('tree', tree)}", *parents, f"author {by}", f"committer {by}", "", f"{subject}\n"]
        commit = "\n".join(lines).encode()
        objects.append(("commit", commit))
        if len(objects) < _LOOSE:
            self._git.write_objects(objects)
        else:
            self._git.run("index-pack", "--stdin", stdin=pack(list(dict.fromkeys(objects))))
        return object_id("commit", commit)

    def _put(self, root: _Folder, blobs: Mapping[bytes, bytes]) -> None:
        """Put notes into the tree, whose folders are read level by level, one process each."""
        level = [(root, name, blob) for name, blob in blobs.items()]
        while level:
            unread: list[tuple[_Folder, str]] = []
            deeper: list[tuple[_Folder, bytes, bytes]] = []
            for folder, name, blob in level:
                folder.entries.pop(name, None)  # a note of this commit higher up: git would show both
                prefix, rest = name[:2], name[2:]
                there = folder.entries.get(prefix)
                is_folder = there is not None and there.mode == FOLDER_MODE
                if not rest or not (folder is root or is_folder):
                    folder.entries[name] = TreeEntry(FILE_MODE, name, blob)
                    continue
                if prefix not in folder.below:
                    folder.below[prefix] = _Folder()
                    if there is not None and is_folder:
                        unread.append((folder.below[prefix], there.id.hex()))
                deeper.append((folder.below[prefix], rest, blob))
            contents = self._git.contents([id_ for _, id_ in unread])
            for (folder, _), content in zip(unread, contents, strict=True):
                folder.entries = _by_name(content)
            level = deeper

    def _move(self, new: str, old: str | None) -> bool:
        """Move the ref from `old` to `new`; False where somebody was faster."""
        if self._remote:
            outcome = self._git.attempt(
                "push", "--porcelain", "--no-verify", "--end-of-options", _REMOTE_NAME, f"{new}:{REF}"
            )
            if outcome.status != 0:
                if pushed_too_late(outcome):
                    return False
                raise SourceUnreachable(f"the remote refuses {REF}: {outcome.complaint}")
            with self._git.exclusive("argus-fetch"):
                moved = self._git.move_ref(REF, new, old).status == 0
            self._is_current = moved  # where another process moved it, the next publication fetches first
            return True
        outcome = self._git.move_ref(REF, new, old)
        if outcome.status == 0:
            return True
        if self._head() == old and b"File exists" not in outcome.err:
            raise SourceUnreachable(f"{REF} cannot be moved: {outcome.complaint}")
        return False


def _by_name(tree: bytes) -> dict[bytes, TreeEntry]:
    return {entry.name: entry for entry in parse_tree(tree)}


def _stored(folder: _Folder, objects: list[tuple[Kind, bytes]]) -> bytes:
    """Give the folder's tree, after those below it; all that changed are appended to `objects`."""
    entries = dict(folder.entries)
    for name, below in folder.below.items():
        content = _stored(below, objects)
        entries[name] = TreeEntry(FOLDER_MODE, name, bytes.fromhex(object_id("tree", content)))
    tree = tree_of(entries.values())
    objects.append(("tree", tree))
    return tree


def _listed(out: bytes) -> dict[str, str]:
    """Read what `ls-tree -r -z` prints: the blob of each note, by the commit that it is about."""
    found: dict[str, str] = {}
    for line in _lines(out):
        description, _, path = line.partition("\t")
        sha = path.replace("/", "")
        if is_object_id(sha):
            found[sha] = description.rpartition(" ")[2]
    return found


def _lines(out: bytes) -> Iterable[str]:
    return out.decode(errors="replace").split("\0")
