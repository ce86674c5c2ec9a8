"""What every keeper of notes promises, in memory, in a local repository and in a remote one; and what git shows."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.ports import Notes
from reconciler.shell.embedded_repo import ensure
from reconciler.shell.git import Git
from reconciler.shell.git_answers import Outcome
from reconciler.shell.notes import LONGEST_NOTE, REF, GitNotes
from reconciler.shell.source import GitSource
from reconciler.shell.spec_copy import MIRROR_FOLDER
from reconciler.testing import MemoryNotes
from tests.repositories import Repository, git

ANN = "users/ann/a.yaml"
ONE, TWO, THREE = ("1" * 40, "2" * 40, "3" * 40)


@dataclass
class Setting:
    """Some notes as any number of processes open them, and how they are broken and mended."""

    open: Callable[[], Notes]
    break_it: Callable[[], None]
    mend_it: Callable[[], None]


def in_memory(_folder: Path) -> Setting:
    notes = MemoryNotes()

    def set_down(down: bool) -> None:
        notes.down = down

    return Setting(lambda: notes, lambda: set_down(True), lambda: set_down(False))


def local(folder: Path) -> Setting:
    repository = Repository(folder / "specs.git")
    lock = repository.path / f"{REF}.lock"

    def refuse() -> None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()

    return Setting(lambda: GitNotes(str(repository.path), home=folder), refuse, lock.unlink)


def remote(folder: Path) -> Setting:
    repository = far(folder)
    return Setting(
        lambda: GitNotes(repository.path.as_uri(), home=folder / "home"),
        lambda: refuse_pushes(repository),
        (repository.path / "hooks" / "update").unlink,
    )


def far(folder: Path) -> Repository:
    """Give a remote repository with a branch that is mirrored into `home`."""
    (folder / "far").mkdir()
    repository = Repository(folder / "far" / "specs.git")
    repository.commit({ANN: b"0"})
    GitSource(repository.path.as_uri(), home=folder / "home").read(None)
    return repository


def refuse_pushes(repository: Repository) -> None:
    """Make a repository say no, as a forge does that protects its refs."""
    hook = repository.path / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\necho "refs/notes is protected, token hunter2" >&2\nexit 1\n')
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(params=[in_memory, local, remote])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Setting:
    made: Setting = request.param(tmp_path)
    return made


def test_there_are_no_notes_at_first(setting: Setting) -> None:
    assert setting.open().read([ONE]) == {}


def test_what_was_published_is_read_by_whoever_opens_it_next(setting: Setting) -> None:
    setting.open().publish({ONE: "APPLIED\n", TWO: "with an ü and a \x1b\n"})
    found = setting.open().read([TWO, THREE, ONE])
    assert found == {ONE: "APPLIED\n", TWO: "with an ü and a \x1b\n"}


def test_a_note_takes_the_place_of_the_one_before_and_others_stay(setting: Setting) -> None:
    notes = setting.open()
    notes.publish({ONE: "open", TWO: "two"})
    notes.publish({ONE: "closed"})
    assert notes.read([ONE, TWO]) == {ONE: "closed", TWO: "two"}


def test_publishing_the_same_again_changes_nothing(setting: Setting) -> None:
    notes = setting.open()
    for each in (notes, notes, setting.open()):
        each.publish({ONE: "one"})
    assert notes.read([ONE]) == {ONE: "one"}


def test_a_refusal_is_an_error_that_passes(setting: Setting) -> None:
    notes = setting.open()
    notes.publish({ONE: "one"})
    setting.break_it()
    with pytest.raises(SourceUnreachable) as refused:
        notes.publish({TWO: "two"})
    assert "hunter2" not in str(refused.value)
    setting.mend_it()
    notes.publish({TWO: "two"})
    assert setting.open().read([ONE, TWO]) == {ONE: "one", TWO: "two"}


# From here on: what only git can show.


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "specs.git")


def notes_of(repository: Repository) -> GitNotes:
    return GitNotes(str(repository.path), home=repository.path.parent)


def shown(repository: Repository, sha: str) -> str:
    """Give a commit's note as git's own command shows it."""
    return git(repository.path, "notes", "--ref=argus", "show", sha)


def count(repository: Repository) -> int:
    return int(git(repository.path, "rev-list", "--count", REF))


def test_git_log_shows_what_became_of_each_commit(repository: Repository) -> None:
    shas = [repository.commit({ANN: str(number).encode()}) for number in range(3)]
    notes_of(repository).publish({sha: f"APPLIED number {number}\n" for number, sha in enumerate(shas)})
    log = git(repository.path, "log", "--notes=argus", "--format=%H %N", "main")
    assert [line.split(" ", 1) for line in log.splitlines() if line] == [
        [sha, f"APPLIED number {number}"] for number, sha in reversed(list(enumerate(shas)))
    ]
    repository.check()


def test_one_publication_is_one_commit_by_argus_and_none_where_nothing_is_new(repository: Repository) -> None:
    notes = notes_of(repository)
    notes.publish({ONE: "1", TWO: "2"})
    notes.publish({ONE: "1"})
    notes.publish({THREE: "3"})
    assert git(repository.path, "log", "--format=%an %s", REF).splitlines() == [
        "Argus Judge 1 commit",
        "Argus Judge 2 commits",
    ]


def test_notes_that_people_wrote_with_git_stay_and_can_be_taken_over(repository: Repository) -> None:
    """Git writes few notes flat and many fanned out; whichever it is, no commit has two notes afterwards."""
    shas = [repository.commit({ANN: str(number).encode()}) for number in range(3)]
    for sha in shas[:2]:
        git(repository.path, "notes", "--ref=argus", "add", "-m", "by hand", sha)
    notes_of(repository).publish({shas[1]: "ours", shas[2]: "ours too"})
    assert [shown(repository, sha) for sha in shas] == ["by hand", "ours", "ours too"]
    git(repository.path, "notes", "--ref=argus", "append", "-m", "and a remark", shas[2])
    assert shown(repository, shas[2]).split() == ["ours", "too", "and", "a", "remark"]
    notes_of(repository).publish({shas[2]: "ours again"})
    assert shown(repository, shas[2]) == "ours again"
    assert git(repository.path, "notes", "--ref=argus", "list").count(shas[2]) == 1
    repository.check()


def test_a_tree_that_git_fanned_out_deeper_is_gone_into(repository: Repository) -> None:
    sha = repository.commit({ANN: b"0"})
    blob = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"deep")
    place = f"{sha[:2]}/{sha[2:4]}/{sha[4:]}"
    by = "committer C <c@example.org> 1767225600 +0000\ndata 1\nx\n"
    git(repository.path, "fast-import", "--quiet", stdin=f"commit {REF}\n{by}M 100644 {blob} {place}\n".encode())
    assert notes_of(repository).read([sha]) == {sha: "deep"}
    notes_of(repository).publish({sha: "deeper"})
    assert git(repository.path, "ls-tree", "-r", "--name-only", REF) == place
    assert shown(repository, sha) == "deeper"


def test_what_is_no_note_is_passed_over(repository: Repository) -> None:
    sha = repository.commit({ANN: b"0"})
    by = "committer C <c@example.org> 1767225600 +0000\ndata 1\nx\n"
    stream = f"commit {REF}\n{by}M 100644 inline README\ndata 1\nx\nM 100644 inline {sha}\ndata {LONGEST_NOTE + 1}\n"
    git(repository.path, "fast-import", "--quiet", stdin=stream.encode() + b"x" * (LONGEST_NOTE + 1) + b"\n")
    assert notes_of(repository).read([sha, "../../etc", ""]) == {}
    notes_of(repository).publish({ONE: "fine"})
    assert git(repository.path, "show", f"{REF}:README") == "x"


@pytest.mark.parametrize("rubbish", ["blob", "empty"])
def test_a_ref_that_is_no_notes_ref_hinders_no_reader(repository: Repository, rubbish: str) -> None:
    file = repository.path / REF
    file.parent.mkdir(parents=True)
    blob = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"rubbish")
    file.write_text(f"{blob}\n" if rubbish == "blob" else "")
    assert notes_of(repository).read([ONE]) == {}
    with pytest.raises(SourceUnreachable):
        notes_of(repository).publish({ONE: "one"})


class Raced(Git):
    """Lets somebody else write in the moment before the ref is moved, a number of times."""

    rivals: Callable[[], None]
    times = 1

    def attempt(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        if arguments[0] in {"push", "update-ref"} and self.times:
            self.times -= 1
            self.rivals()
        return super().attempt(*arguments, stdin=stdin)


def test_a_race_with_a_push_to_the_notes_loses_neither_side(tmp_path: Path) -> None:
    repository = far(tmp_path)
    url = repository.path.as_uri()
    notes, rival = (GitNotes(url, home=tmp_path / home) for home in ("home", "other"))
    GitSource(url, home=tmp_path / "other").read(None)
    notes.publish({ONE: "one"})
    notes._git = raced = Raced(tmp_path / "home" / MIRROR_FOLDER, 10, {"remote.spec.url": url})
    raced.rivals = lambda: rival.publish({TWO: "two"})
    notes.publish({THREE: "three"})
    assert raced.times == 0
    assert rival.read([ONE, TWO, THREE]) == {ONE: "one", TWO: "two", THREE: "three"}
    assert count(repository) == 3


def test_a_race_in_one_repository_loses_neither_side(repository: Repository) -> None:
    notes = notes_of(repository)
    notes._git = raced = Raced(repository.path, 10)
    raced.rivals = lambda: notes_of(repository).publish({TWO: "two"})
    notes.publish({ONE: "one"})
    assert raced.times == 0
    assert notes.read([ONE, TWO]) == {ONE: "one", TWO: "two"}


def test_a_new_machine_goes_on_with_the_remotes_notes(tmp_path: Path) -> None:
    repository = far(tmp_path)
    url = repository.path.as_uri()
    GitNotes(url, home=tmp_path / "home").publish({ONE: "one"})
    GitSource(url, home=tmp_path / "new").read(None)
    GitNotes(url, home=tmp_path / "new").publish({TWO: "two"})
    assert count(repository) == 2


def test_notes_that_a_remote_has_lost_come_back_with_the_next(tmp_path: Path) -> None:
    repository = far(tmp_path)
    notes = GitNotes(repository.path.as_uri(), home=tmp_path / "home")
    notes.publish({ONE: "one"})
    git(repository.path, "update-ref", "-d", REF)
    notes.publish({TWO: "two"})
    assert notes.read([ONE, TWO]) == {ONE: "one", TWO: "two"}


def test_a_lock_that_a_killed_git_left_behind_goes_when_it_is_old(repository: Repository) -> None:
    lock = repository.path / f"{REF}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    long_ago = time.time() - 60
    os.utime(lock, (long_ago, long_ago))
    notes_of(repository).publish({ONE: "one"})
    assert not lock.exists()


def test_the_branch_and_its_models_do_not_know_of_notes(tmp_path: Path) -> None:
    repository = far(tmp_path)
    url = repository.path.as_uri()
    source = GitSource(url, home=tmp_path / "home")
    before = source.read(None)
    GitNotes(url, home=tmp_path / "home").publish({repository.head() or "": "note"})
    assert source.read(None) == before
    assert GitSource(url, home=tmp_path / "anew").read(None) == before


def test_people_push_and_fetch_the_notes_of_the_embedded_repository(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "README.md").write_text("x")
    ensure(tmp_path / "specs.git", tmp_path / "template")
    head = git(tmp_path / "specs.git", "rev-parse", "main")
    GitNotes(str(tmp_path / "specs.git"), home=tmp_path).publish({head: "NO_CHANGE\n"})
    git(tmp_path, "clone", "--quiet", "specs.git", "clone")
    clone = tmp_path / "clone"
    git(clone, "fetch", "--quiet", "origin", f"{REF}:{REF}")
    assert git(clone, "log", "-1", "--notes=argus", "--format=%N").strip() == "NO_CHANGE"
    git(clone, "notes", "--ref=argus", "append", "-m", "seen by Ann", head)
    git(clone, "push", "--quiet", "origin", REF)
    found = GitNotes(str(tmp_path / "specs.git"), home=tmp_path).read([head])
    assert found[head].split("\n")[0] == "NO_CHANGE"
    assert "seen by Ann" in found[head]


def test_many_notes_are_one_pack_and_few_are_loose(repository: Repository) -> None:
    notes = notes_of(repository)
    many: Mapping[str, str] = {f"{number:040x}": f"note {number}" for number in range(300)}
    notes.publish(many)
    notes.publish({ONE: "one"})
    assert len(list((repository.path / "objects" / "pack").glob("*.pack"))) == 1
    assert notes.read(list(many)) == many
    repository.check()
