"""The fold over a branch, held against what git itself says of generated histories, merges included."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.entities import ChangeKind, Entry, SpecFile
from reconciler.core.history import History, PathChange, RawCommit
from reconciler.errors import SourceUnreachable
from reconciler.names import split_path, user_of_path
from reconciler.shell.commit_log import parse_log
from reconciler.shell.source import GitSource
from tests.core.test_identity import adding
from tests.repositories import git

PATHS = [
    b"README.md",
    b"users/ann/a.yaml",
    b"users/ann/b-1.yaml",
    b"users/ann/.gitkeep",
    b"users/ann/a.yaml/inside.yaml",
    b"users/ann/notes/c.yaml",
    b"users/bob/a.yaml",
    b"users/Bob/a.yaml",
    b"users/bob/A.yaml",
    b"users/new\nline/a.yaml",
    b"users/\xff\xfe/a.yaml",
    b"users/bob/\xff.yaml",
    b"users/a..b/a.yaml",
    b"users/x.yaml",
]
MODES = [b"100644", b"100755", b"120000"]
NAMES = [b"ann", b"Zo\xc3\xab", b"\xff\xfe", b"a\tb", b":100644 100644", b""]
SUBJECTS = [b"", b"fix", b"\xff\x00cut", b"two\nlines", b"\x1b[31mred", b":000000 100644"]

File: TypeAlias = tuple[bytes, bytes]
"""Mode and content."""


@dataclass
class World:
    """Two branches as dictionaries, and the fast-import stream that makes git hold the same."""

    branches: list[dict[bytes, File]] = field(default_factory=lambda: [{}, {}])
    stream: list[bytes] = field(default_factory=list)
    born: list[bool] = field(default_factory=lambda: [False, False])

    def commit(self, branch: int, author: bytes, subject: bytes, merge: bool) -> None:
        """Make git hold what the branch's dictionary holds, in one commit."""
        name = [b"main", b"side"][branch]
        when = b"%d +0000" % (1_767_225_600 + len(self.stream) // 3)
        self.stream.append(
            b"commit refs/heads/%s\nauthor %s <a@example.org> %s\ncommitter c <c@example.org> %s\ndata %d\n%s\n"
            % (name, author, when, when, len(subject), subject)
        )
        if not self.born[branch] and self.born[1 - branch] and branch == 1:
            self.stream.append(b"from refs/heads/main\n")
        if merge:
            self.stream.append(b"merge refs/heads/%s\n" % [b"main", b"side"][1 - branch])
        self.born[branch] = True
        self.stream.append(b"deleteall\n")
        for path, (mode, content) in self.branches[branch].items():
            self.stream.append(b"M %s inline %s\ndata %d\n%s\n" % (mode, _quoted(path), len(content), content))


def _quoted(path: bytes) -> bytes:
    return b'"' + path.replace(b"\n", b"\\n") + b'"'


def _put(files: dict[bytes, File], path: bytes, file: File | None) -> None:
    if file is None:
        files.pop(path, None)
        return
    for other in [other for other in files if other.startswith(path + b"/") or path.startswith(other + b"/")]:
        del files[other]
    files[path] = file


edits = st.lists(
    st.tuples(
        st.sampled_from(PATHS),
        st.none() | st.tuples(st.sampled_from(MODES), st.sampled_from([b"", b"x: 1\n", b"\x00\xff", b"a: [\n"])),
    ),
    max_size=5,
)
steps = st.lists(
    st.tuples(st.sampled_from([0, 0, 1]), edits, st.booleans(), st.sampled_from(NAMES), st.sampled_from(SUBJECTS)),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Thousands of objects that nobody keeps: in memory where the machine has such a folder.
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as found:
        yield Path(found)


def _files(repository: Path) -> dict[str, tuple[str, str]]:
    """Ask git for every path of the branch's newest commit: its mode and its blob."""
    listed = git(repository, "ls-tree", "-r", "-z", "main").split("\0")
    found = {}
    for line in filter(None, listed):
        description, path = line.split("\t", 1)
        mode, _, blob = description.split()
        found[path] = (mode, blob)
    return found


@settings(max_examples=15, deadline=None)
@given(steps=steps, cut=st.integers(0, 11))
def test_the_fold_holds_what_the_newest_commit_holds(
    folder: Path, steps: list[tuple[int, list[tuple[bytes, File | None]], bool, bytes, bytes]], cut: int
) -> None:
    world = World()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        repository = Path(made)
        git(repository, "init", "--quiet", "--bare", "--initial-branch=main", "--template=")
        source = GitSource(str(repository), home=repository)
        for number, (branch, edited, merge, author, subject) in enumerate([(0, *steps[0][1:]), *steps[1:]]):
            files = world.branches[branch]
            if branch == 1 and not world.born[1]:
                files.update(world.branches[0])
            both = merge and all(world.born)
            if both:
                for path, file in world.branches[1 - branch].items():
                    _put(files, path, file)
            for path, edit in edited:
                _put(files, path, edit)
            world.commit(branch, author, subject, both)
            if number == cut:  # read in the middle, so that the rest is an increment
                git(repository, "fast-import", "--quiet", "--force", stdin=b"".join(world.stream))
                source.read(None)
        git(repository, "fast-import", "--quiet", "--force", stdin=b"".join(world.stream))

        tree = source.read(None).tree
        held = _files(repository)
        want = {path: file for path, file in held.items() if split_path(path)}
        assert {file.identity.path: (file.mode, file.blob) for file in tree.files.values()} == want
        assert tree.users == {user for path in held if (user := user_of_path(path))}
        assert tree.revision == git(repository, "rev-parse", "main")
        assert GitSource(str(repository), home=repository).read(None).tree == tree
        for model in tree.files.values():
            assert _last_change(repository, model) == model.commit.sha


def _last_change(repository: Path, file: SpecFile) -> str:
    path = file.identity.path
    return git(repository, "rev-list", "-1", "--first-parent", "main", "--", path)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_replaying_the_changes_since_any_commit_leads_to_the_same_files(data: st.DataObject) -> None:
    present: dict[str, int] = {}
    history = History()
    trees = {}
    for number in range(1, data.draw(st.integers(1, 10)) + 1):
        wanted = data.draw(st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 3), max_size=4))
        changes = []
        for letter, content in wanted.items():
            path, before = f"users/ann/{letter}.yaml", present.pop(letter, None)
            if content is not None:
                present[letter] = content
            if before != content:
                changes.append((path, before, content))
        history.extend([_commit(number, changes, history.head)])
        trees[history.head] = history.tree
    for revision, tree in trees.items():
        assert revision is not None
        replayed = dict(tree.files)
        for change in history.changes_since(revision) or ():
            key = change.identity.model_key
            assert replayed.get(key) == change.before
            replayed.pop(key, None)
            if change.after:
                replayed[key] = change.after
        assert replayed == history.tree.files


def _commit(number: int, changes: list[tuple[str, int | None, int | None]], parent: str | None) -> RawCommit:
    def entry(content: int | None) -> Entry | None:
        return None if content is None else Entry("100644", f"{content:040x}")

    raw = adding(number, [], parent=parent)
    return RawCommit(raw.commit, parent, tuple(PathChange(path, entry(b), entry(a)) for path, b, a in changes))


def test_a_commit_that_does_not_follow_is_refused() -> None:
    history = History()
    history.extend([adding(1, ["users/ann/a.yaml"])])
    tree = history.tree
    with pytest.raises(ValueError, match="does not follow"):
        history.extend([adding(3, ["users/ann/b.yaml"], parent=f"{2:040x}")])
    assert history.tree == tree


def test_a_merge_brings_what_its_branch_changed_as_one_commit(tmp_path: Path) -> None:
    """The files of a feature branch count from the merge on, and what `main` got meanwhile is not touched."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    users = tmp_path / "users" / "ann"
    users.mkdir(parents=True)

    def commit(name: str) -> None:
        (users / name).write_text(name)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "-m", name)

    commit("first.yaml")
    git(tmp_path, "checkout", "--quiet", "-b", "feature")
    commit("one.yaml")
    commit("two.yaml")
    git(tmp_path, "checkout", "--quiet", "main")
    commit("other.yaml")
    source = GitSource(str(tmp_path / ".git"), home=tmp_path)
    before = source.read(None).tree
    git(tmp_path, "merge", "--quiet", "--no-ff", "-m", "Merge", "feature")

    reading = source.read(before.revision)
    assert reading.changes is not None
    assert [(change.kind, change.identity.suffix) for change in reading.changes] == [
        (ChangeKind.CREATED, "one"),
        (ChangeKind.CREATED, "two"),
    ]
    assert {change.commit.sha for change in reading.changes} == {reading.tree.revision}
    assert before.files.items() <= reading.tree.files.items()


def test_nothing_that_a_stranger_writes_into_a_commit_moves_a_field(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main")
    blob = git(tmp_path, "hash-object", "-w", "--stdin", stdin=b"x")
    folder = git(tmp_path, "mktree", stdin=f"100644 blob {blob}\ta.yaml\n".encode())
    users = git(tmp_path, "mktree", stdin=f"040000 tree {folder}\tann\n".encode())
    root = git(tmp_path, "mktree", stdin=f"040000 tree {users}\tusers\n".encode())
    hostile = [
        b"author ev\0il <a@b> 1 +0000\ncommitter \xff\n:100644 <x@y> " + b"9" * 30 + b" +0000\n\nsub\0ject\n",
        b"author  <> 1 +0000\ncommitter Argus <argus@localhost>\n\n" + b"x" * 5000,
        b"\nno author, no committer\x1b[31m\n",
    ]
    parent = b""
    shas = []
    for body in hostile:
        raw = b"tree " + root.encode() + b"\n" + parent + body
        shas.append(git(tmp_path, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw))
        parent = b"parent " + shas[-1].encode() + b"\n"
    git(tmp_path, "update-ref", "refs/heads/main", shas[-1])

    reading = GitSource(str(tmp_path), home=tmp_path).read(shas[0])
    [file] = reading.tree.files.values()
    assert file.identity.path == "users/ann/a.yaml"
    assert file.commit.sha == shas[0]
    assert file.commit.author.isprintable()
    assert file.commit.subject.isprintable()
    assert reading.changes == ()


@given(out=st.binary(max_size=300))
def test_any_other_output_of_git_is_an_error_and_never_a_wrong_answer(out: bytes) -> None:
    try:
        found = parse_log(out)
    except SourceUnreachable:
        return
    assert all(isinstance(raw, RawCommit) for raw in found)
