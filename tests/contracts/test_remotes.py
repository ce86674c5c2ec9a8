"""Remotes over https and ssh: who is let in, what is kept secret, and what happens when they hang or lie in ruins."""

from __future__ import annotations

import base64
import math
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.settings import Settings, SpecRepoSettings
from reconciler.shell.access import Access
from reconciler.shell.notes import GitNotes
from reconciler.shell.source import GitSource
from reconciler.shell.spec_copy import MIRROR_FOLDER
from tests.remotes import (
    HttpsRemote,
    SshRemote,
    accept_pushes,
    https_remote,
    silent_listener,
    ssh_remote,
    why_no_sshd,
)
from tests.repositories import Repository, git

ANN = "users/ann/a.yaml"
TOKEN = "t0ken-of-the-platform"
PATIENT_S = 60.0  # on a machine that is busy with other things


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "far").mkdir()
    made = Repository(tmp_path / "far" / "specs.git")
    accept_pushes(made.path)
    made.commit({ANN: b"1"})
    return made


@pytest.fixture
def https(tmp_path: Path, repository: Repository) -> Iterator[HttpsRemote]:
    with https_remote(tmp_path, repository.path.parent, TOKEN) as remote:
        yield remote


@pytest.fixture
def ssh(tmp_path: Path, repository: Repository) -> Iterator[SshRemote]:
    if why := why_no_sshd():
        pytest.skip(why)
    with ssh_remote(tmp_path / "ssh files", repository.path) as remote:
        yield remote


def by_https(tmp_path: Path, remote: HttpsRemote, token: str = TOKEN, **options: float) -> GitSource:
    (tmp_path / "token").write_text(f"{token}\n")
    access = Access(token_file=tmp_path / "token", ca_file=remote.ca_file)
    options.setdefault("patience_s", PATIENT_S)
    return GitSource(f"{remote.url}/specs.git", home=tmp_path / "home", access=access, **options)  # type: ignore[arg-type]


def by_ssh(tmp_path: Path, remote: SshRemote, **files: Path) -> GitSource:
    access = Access(**{"ssh_key_file": remote.key_file, "known_hosts_file": remote.known_hosts_file, **files})  # type: ignore[arg-type]
    return GitSource(remote.url, home=tmp_path / "home", access=access, patience_s=PATIENT_S)


def head(source: GitSource) -> str | None:
    return source.read(None).tree.revision


def test_https_with_a_token_from_a_file_is_read(tmp_path: Path, repository: Repository, https: HttpsRemote) -> None:
    source = by_https(tmp_path, https)
    assert head(source) == repository.head()
    repository.commit({ANN: b"2"})
    assert head(source) == repository.head()


def test_a_token_from_the_environment_counts_before_the_file(
    tmp_path: Path, repository: Repository, https: HttpsRemote
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    repo = SpecRepoSettings(url=f"{https.url}/specs.git", token_file="wrong", ca_file=str(https.ca_file))
    access = Access.from_settings(Settings(home=tmp_path, spec_repo=repo), {"ARGUS_SPEC_REPO_TOKEN": TOKEN})
    assert TOKEN not in repr(access)
    assert head(GitSource(str(repo.url), home=tmp_path, access=access, patience_s=PATIENT_S)) == repository.head()


def test_notes_go_to_the_remote_by_the_same_way_in(tmp_path: Path, repository: Repository, https: HttpsRemote) -> None:
    source = by_https(tmp_path, https)
    sha = head(source) or ""
    access = Access(token_file=tmp_path / "token", ca_file=https.ca_file)
    notes = GitNotes(f"{https.url}/specs.git", home=tmp_path / "home", timeout_s=PATIENT_S, access=access)
    notes.publish({sha: "APPLIED\n"})
    assert git(repository.path, "notes", "--ref=argus", "show", sha) == "APPLIED"
    assert notes.read([sha]) == {sha: "APPLIED\n"}


def test_a_token_that_is_replaced_counts_from_the_next_command_on(
    tmp_path: Path, repository: Repository, https: HttpsRemote
) -> None:
    source = by_https(tmp_path, https)
    head(source)
    https.tokens = {"another"}
    with pytest.raises(SourceUnreachable, match=r"Authentication failed|could not read Username"):
        source.read(None)
    (tmp_path / "token").write_text("another\n")
    source.hurry()
    assert head(source) == repository.head()


def test_the_user_is_the_one_that_was_configured(tmp_path: Path, repository: Repository, https: HttpsRemote) -> None:
    https.user = "x-access-token"
    access = Access(username="x-access-token", token=TOKEN, ca_file=https.ca_file)
    assert (
        head(GitSource(f"{https.url}/specs.git", home=tmp_path, access=access, patience_s=PATIENT_S))
        == repository.head()
    )


def test_neither_arguments_nor_the_mirror_nor_errors_hold_the_token(tmp_path: Path, https: HttpsRemote) -> None:
    source = by_https(tmp_path, https)
    head(source)
    https.silent.set()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, None)
        before, commands = len(https.seen), b""
        while len(https.seen) == before:
            time.sleep(0.01)
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    commands += (process / "cmdline").read_bytes()
                except OSError:
                    continue  # it has ended meanwhile
        https.silent.clear()
        reading.result()
    assert b"git-remote-https" in commands or b"remote-https" in commands, "the premise: a transfer was under way"
    https.tokens.clear()
    with pytest.raises(SourceUnreachable) as caught:
        source.read(None)
    everything = commands + str(caught.value).encode()
    for file in (tmp_path / "home" / MIRROR_FOLDER).rglob("*"):
        everything += file.read_bytes() if file.is_file() else b""
    for secret in (TOKEN.encode(), base64.b64encode(f"git:{TOKEN}".encode())):
        assert secret not in everything


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "ä", "x" * 9000])
def test_a_file_that_holds_no_token_is_named_and_not_shown(tmp_path: Path, https: HttpsRemote, text: str) -> None:
    with pytest.raises(SourceUnreachable, match=r"spec_repo\.token_file") as caught:
        head(by_https(tmp_path, https, token=text))
    assert "lines" not in str(caught.value)
    assert not https.seen


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path, https: HttpsRemote) -> None:
    source = by_https(tmp_path, https)
    (tmp_path / "token").unlink()
    with pytest.raises(SourceUnreachable, match=r"spec_repo\.token_file cannot be read: FileNotFoundError"):
        head(source)


def test_a_server_that_its_authority_does_not_vouch_for_gets_no_token(tmp_path: Path, https: HttpsRemote) -> None:
    source = GitSource(f"{https.url}/specs.git", home=tmp_path, access=Access(token=TOKEN), patience_s=PATIENT_S)
    with pytest.raises(SourceUnreachable, match="certificate"):
        head(source)
    assert not https.seen


def test_ssh_with_a_key_and_known_hosts_is_read(tmp_path: Path, repository: Repository, ssh: SshRemote) -> None:
    assert head(by_ssh(tmp_path, ssh)) == repository.head()


def test_ssh_to_a_server_that_is_not_known_is_refused(tmp_path: Path, ssh: SshRemote) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(SourceUnreachable):
        head(by_ssh(tmp_path, ssh, known_hosts_file=tmp_path / "empty"))
    assert (tmp_path / "empty").read_bytes() == b"", "and is not learnt either"


def test_ssh_with_another_key_is_refused(tmp_path: Path, ssh: SshRemote) -> None:
    with pytest.raises(SourceUnreachable):
        head(by_ssh(tmp_path, ssh, ssh_key_file=ssh.key_file.with_name("host")))


# Remotes that hang, go and come back. pytest-timeout ends what would wait for ever.


@pytest.mark.timeout(60)
def test_a_listener_that_never_says_a_word_holds_up_nobody_for_long(tmp_path: Path) -> None:
    with silent_listener() as port:
        source = GitSource(f"https://127.0.0.1:{port}/specs.git", home=tmp_path, timeout_s=600, patience_s=0.2)
        for _ in range(3):
            with pytest.raises(SourceUnreachable, match="git fetch has"):
                source.read(None)
            with pytest.raises(SourceUnreachable, match="git fetch has"):
                source.tree()
        end_fetches(source)


@pytest.mark.timeout(60)
def test_while_a_remote_hangs_its_last_known_revision_counts_and_says_so(
    tmp_path: Path, repository: Repository, https: HttpsRemote
) -> None:
    source = by_https(tmp_path, https, timeout_s=600, patience_s=0.2)
    source.copy.fetch(patience_s=50)  # the first time takes as long as it takes
    known = source.tree(max_age_s=math.inf)
    https.silent.set()
    repository.commit({ANN: b"2"})
    reading = source.read(known.revision)
    assert (reading.tree, reading.changes) == (known, ())
    assert reading.trouble is not None
    assert source.tree() == known
    https.silent.clear()
    source.copy.fetch(patience_s=50)
    assert source.tree(max_age_s=math.inf).revision == repository.head()
    assert source.trouble is None


def test_a_remote_that_is_gone_and_comes_back_loses_nothing(tmp_path: Path, repository: Repository) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S)
    known = source.read(None).tree
    away = repository.path.rename(repository.path.with_name("away"))
    for _ in range(3):
        reading = source.read(known.revision)
        assert (reading.tree, reading.changes) == (known, ())
        assert "does not answer" in str(reading.trouble)
    with pytest.raises(SourceUnreachable):
        source.read(None)
    away.rename(repository.path)
    repository.commit({ANN: b"2"})
    source.hurry()
    reading = source.read(known.revision)
    assert reading.trouble is None
    assert [change.commit.sha for change in reading.changes or ()] == [repository.head()]


def test_a_copy_that_is_older_than_what_the_ledger_knows_is_not_gone_back_to(
    tmp_path: Path, repository: Repository
) -> None:
    GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S).read(None)
    newer = repository.commit({ANN: b"2"})
    repository.path.rename(repository.path.with_name("away"))
    with pytest.raises(SourceUnreachable):
        GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S).read(newer)


# Ruins


def loose_objects(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "objects").glob("??/*") if path.is_file())


def cut(path: Path, size: int) -> None:
    """Cut a file as a power failure does."""
    path.chmod(0o644)
    os.truncate(path, size)


@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize("again", [False, True], ids=["running", "started anew"])
def test_a_mirror_with_broken_objects_is_fetched_anew(
    tmp_path: Path, repository: Repository, size: int, again: bool
) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S)
    head(source)
    mirror = tmp_path / "home" / MIRROR_FOLDER
    broken = [*loose_objects(mirror), *mirror.glob("objects/pack/*.pack")]
    assert broken
    for path in broken:
        cut(path, size)
    repository.commit({ANN: b"2"})
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S) if again else source
    tree = source.read(None).tree
    assert tree.revision == repository.head()
    [file] = tree.files.values()
    assert source.blobs([file.blob], 10) == {file.blob: b"2"}
    git(mirror, "fsck", "--strict")
    assert [found.name for found in (tmp_path / "home").iterdir() if found.is_dir()] == [MIRROR_FOLDER]


def test_a_mirror_with_one_broken_blob_is_fetched_anew_when_that_is_read(
    tmp_path: Path, repository: Repository
) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S)
    [file] = source.read(None).tree.files.values()
    mirror = tmp_path / "home" / MIRROR_FOLDER
    cut(mirror / "objects" / file.blob[:2] / file.blob[2:], 5)
    assert source.blobs([file.blob], 10) == {file.blob: b"1"}


def test_a_broken_mirror_of_a_remote_that_is_gone_stays_until_it_can_be_replaced(
    tmp_path: Path, repository: Repository
) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S)
    head(source)
    mirror = tmp_path / "home" / MIRROR_FOLDER
    for path in loose_objects(mirror):
        cut(path, 0)
    away = repository.path.rename(repository.path.with_name("away"))
    with pytest.raises(SourceUnreachable):
        GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S).read("0" * 40)
    assert mirror.is_dir()
    away.rename(repository.path)
    assert head(GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=PATIENT_S)) == repository.head()


def test_a_broken_repository_that_is_the_only_one_is_an_error_with_the_way_out_that_works(
    tmp_path: Path, repository: Repository
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--bare", "--no-hardlinks", str(repository.path), str(clone))
    for path in loose_objects(repository.path):
        cut(path, 0)
    for path in repository.path.glob("objects/pack/*.pack"):
        cut(path, 20)
    with pytest.raises(SourceUnreachable, match=r"damaged.*objects"):
        head(GitSource(str(repository.path), home=tmp_path))
    subprocess.run(["cp", "-rf", f"{clone}/objects/.", f"{repository.path}/objects/"], check=True)
    assert head(GitSource(str(repository.path), home=tmp_path)) == git(clone, "rev-parse", "main")
    git(repository.path, "fsck", "--strict")


def end_fetches(source: GitSource) -> None:
    """End what a source has under way, so that nothing outlives the test."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                mine = str(source.copy.git.folder).encode() in (process / "cmdline").read_bytes()
            except OSError:
                continue
            if mine:
                os.killpg(int(process.name), 9)
    for thread in threading.enumerate():
        if thread.name == "argus-fetch":
            thread.join(20)
