"""What only git shows of a source: damage, holes, mirrors, remotes and processes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.shell.git_answers import Outcome
from reconciler.shell.source import GitSource
from reconciler.shell.spec_copy import MIRROR_FOLDER, is_remote
from tests.repositories import CountingGit, Repository, git, put_git_on_path, runs

ANN = "users/ann/a.yaml"
BOB = "users/bob/b.yaml"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "specs.git")


def test_a_commit_is_found_by_its_beginning_with_what_came_after_it(repository: Repository) -> None:
    source = GitSource(str(repository.path), home=repository.path.parent)
    first = repository.commit({ANN: b"0", BOB: b"0"})
    second = repository.commit({ANN: b"1"})
    bare = repository.commit({"README.md": b"x"})
    [past] = source.past(first[:10])
    assert past.commit.sha == first
    assert [(change.identity.path, later and later.commit.sha) for change, later in past.changes] == [
        (ANN, second),
        (BOB, None),
    ]
    [past] = source.past(bare)
    assert past.changes == ()
    assert source.past("0" * 40) == ()
    assert len(source.past("")) == 3
    assert source.is_after(second, first)
    assert not source.is_after(first, first)
    assert not source.is_after(second, bare)
    assert source.is_after(first, None)
    assert source.is_after(first, "0" * 40)


def test_a_branch_that_stood_still_costs_no_process_and_one_that_moved_one(repository: Repository) -> None:
    source = GitSource(str(repository.path), home=repository.path.parent)
    source.copy.git = counting = CountingGit(repository.path, 30)
    repository.commit({ANN: b"0"})
    source.read(None)
    counting.started = 0
    source.read(None)
    assert counting.started == 0
    for content in (b"1", b"2"):
        repository.commit({ANN: content})
    source.read(None)
    assert counting.started == 1


def test_a_huge_blob_is_never_read_whole(repository: Repository) -> None:
    repository.commit({ANN: b"x" * 20_000_000, BOB: b"small"})
    source = GitSource(str(repository.path), home=repository.path.parent)
    tree = source.read(None).tree

    class Sparing(CountingGit):
        def attempt(self, *arguments: str, stdin: bytes = b"") -> Outcome:
            outcome = super().attempt(*arguments, stdin=stdin)
            assert len(outcome.out) < 10_000
            return outcome

        def contents(self, ids: Sequence[str]) -> list[bytes]:
            found = super().contents(ids)
            assert sum(map(len, found)) < 10_000
            return found

    source.copy.git = Sparing(repository.path, 30)
    found = source.blobs([file.blob for file in tree.files.values()], 1000)
    assert set(found.values()) == {b"small", b"x" * 1001}


def test_a_damaged_branch_is_an_error_and_not_an_unborn_one(repository: Repository) -> None:
    repository.commit({ANN: b"0"})
    (repository.path / "refs/heads/main").write_bytes(b"")
    with pytest.raises(SourceUnreachable, match="branch main cannot be read"):
        GitSource(str(repository.path), home=repository.path.parent).read(None)


def test_a_history_with_a_hole_is_an_error(repository: Repository) -> None:
    repository.commit({ANN: b"0"})
    shutil.rmtree(repository.path / "objects")
    (repository.path / "objects").mkdir()
    with pytest.raises(SourceUnreachable):
        GitSource(str(repository.path), home=repository.path.parent).read(None)


def test_a_mirrored_branch_that_vanishes_is_an_error(tmp_path: Path, repository: Repository) -> None:
    """Somebody deleted or renamed it: that is no wish to stop every model."""
    repository.commit({ANN: b"0"})
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60)
    source.read(None)
    git(repository.path, "update-ref", "-d", "refs/heads/main")
    for asked in (source, GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60)):
        with pytest.raises(SourceUnreachable):
            asked.read(None)


def test_a_mirror_holds_the_branch_and_nothing_else(tmp_path: Path, repository: Repository) -> None:
    sha = repository.commit({ANN: b"0"})
    git(repository.path, "branch", "other", "main")
    git(repository.path, "tag", "v1", "main")
    GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60).read(None)
    mirror = tmp_path / "home" / MIRROR_FOLDER
    assert git(mirror, "for-each-ref", "--format=%(refname) %(objectname)") == f"refs/heads/main {sha}"
    assert not (mirror / "hooks").exists()


def test_processes_that_share_a_mirror_do_not_trip_over_each_other(tmp_path: Path, repository: Repository) -> None:
    sources = [GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60) for _ in range(4)]
    for content in (b"0", b"1", b"2"):
        sha = repository.commit({ANN: content})
        with ThreadPoolExecutor(4) as pool:
            assert {reading.tree.revision for reading in pool.map(lambda one: one.read(None), sources)} == {sha}


def test_no_error_shows_a_password(tmp_path: Path) -> None:
    source = GitSource("https://ann:s3cr3t@127.0.0.1:1/specs.git", home=tmp_path, timeout_s=10)
    with pytest.raises(SourceUnreachable) as caught:
        source.read(None)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_remote_that_never_answers_is_given_up_and_its_helper_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pid"
    helper = tmp_path / "ssh"
    helper.write_text(f"#!/bin/sh\necho $$ > {note}\nexec sleep 600\n")
    helper.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(helper))
    source = GitSource("ssh://git@nowhere.invalid/specs.git", home=tmp_path, timeout_s=1)
    started = time.monotonic()
    with pytest.raises(SourceUnreachable, match="git fetch did not finish within 1 s"):
        source.read(None)
    assert time.monotonic() - started < 20
    while runs(int(note.read_text())):  # the kernel may take a moment; pytest-timeout ends a wait for ever
        pass


@pytest.mark.parametrize("url", ["ext::sh -c touch% {}", "fd::17", "--upload-pack=touch {}", "git://127.0.0.1:1/x"])
def test_only_file_https_and_ssh_are_spoken(tmp_path: Path, url: str) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(SourceUnreachable):
        GitSource(url.format(trap), home=tmp_path).read(None)
    assert not trap.exists()


def test_what_the_environment_says_about_git_repositories_is_not_heard(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that starts Argus, or a test run from a hook, comes with variables that point somewhere else."""
    sha = repository.commit({ANN: b"0"})
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.bare=false'")
    assert GitSource(str(repository.path), home=tmp_path).read(None).tree.revision == sha


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("https://example.org/specs.git", True),
        ("ssh://git@example.org/specs.git", True),
        ("file:///srv/specs.git", True),
        ("git@example.org:team/specs.git", True),
        ("/srv/specs.git", False),
        ("./specs.git", False),
        ("/srv/a:b/specs.git", False),
    ],
)
def test_a_url_is_mirrored_and_a_folder_is_read_in_place(url: str, remote: bool) -> None:
    assert is_remote(url) is remote


def test_a_merge_of_main_into_a_fork_of_it_rewrites_who_came_first(tmp_path: Path, repository: Repository) -> None:
    """First parents are all we have: the embedded repository's hook refuses such a push, a remote should as well."""
    repository.commit({"README.md": b"x"})
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository.path), str(clone))
    repository.commit({ANN: b"0"})
    source = GitSource(str(repository.path), home=tmp_path)
    before = source.read(None).tree
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "mine")
    git(clone, "pull", "--quiet", "--no-rebase", "--no-edit")
    git(clone, "push", "--quiet")
    reading = source.read(before.revision)
    assert reading.changes is None
    [was], [now] = before.files.values(), reading.tree.files.values()
    assert (now.identity.path, now.identity == was.identity) == (ANN, False)


def test_who_waits_while_git_hangs_shares_the_answer_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository(tmp_path / "specs.git").commit({"README.md": b"x"})
    calls = tmp_path / "calls"
    put_git_on_path(tmp_path, monkeypatch, f"echo >> {calls}\nexec sleep 60")
    source, together = GitSource(str(tmp_path / "specs.git"), home=tmp_path, timeout_s=1.0), threading.Barrier(8)

    def read(_: int) -> str:
        together.wait()
        with pytest.raises(SourceUnreachable) as refused:
            source.tree()
        return str(refused.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    assert calls.read_text() == "\n"
