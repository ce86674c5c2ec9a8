"""Blobs that are damaged in a real repository: each is told, costs nobody else anything, and can be mended."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.entities import Damaged
from reconciler.errors import SourceUnreachable
from reconciler.shell import blobs as blobs_module
from reconciler.shell.git import Git
from reconciler.shell.mending import mend
from reconciler.shell.objects import object_id
from reconciler.shell.source import GitSource
from reconciler.shell.spec_copy import MIRROR_FOLDER
from tests.repositories import CountingGit, Repository, git, git_bytes, loose, put_git_on_path

TEXT = "".join(f"line {number} of a file that is long enough to be cut\n" for number in range(200)).encode()
BAD, GOOD = object_id("blob", TEXT), object_id("blob", b"good")
PATH = "users/ann/bad.yaml"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "specs.git")
    made.commit({PATH: TEXT, "users/bob/good.yaml": b"good", "users/bob/more.yaml": b"more"})
    return made


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def garbled(file: Path) -> None:
    file.write_bytes(b"\xa5" * file.stat().st_size)


def garbled_behind_its_head(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = b"\xa5" * (len(data) - len(data) // 2)
    file.write_bytes(data)


def made_another(file: Path) -> None:
    """Write what unpacks without a complaint, has the right length, and is not what the name says."""
    file.write_bytes(zlib.compress(b"blob %d\0" % len(TEXT) + TEXT[::-1]))


def deleted(file: Path) -> None:
    file.unlink()


RUINS = [truncated, emptied, garbled, garbled_behind_its_head, made_another, deleted]


@pytest.mark.parametrize("ruin", RUINS)
def test_every_kind_of_damage_is_told_of_its_blob_alone(repository: Repository, ruin: Callable[[Path], None]) -> None:
    here = Git(repository.path, 30)
    ruin(loose(repository.path, BAD))
    why = "it is missing" if ruin is deleted else "it is damaged"
    for _ in range(3):
        assert here.blobs([GOOD, BAD], 100_000) == {GOOD: b"good", BAD: Damaged(BAD, why)}
    git_bytes(repository.path, "cat-file", "blob", GOOD)
    assert here.head("main") == repository.head()


def test_a_blob_in_a_corrupted_pack_is_told_of_alone(repository: Repository) -> None:
    git(repository.path, "repack", "-adq", "--depth=0")
    [index] = repository.path.glob("objects/pack/*.idx")
    shown = git_bytes(repository.path, "show-index", stdin=index.read_bytes()).decode().splitlines()
    place = {line.split()[1]: int(line.split()[0]) for line in shown}[BAD]
    pack = index.with_suffix(".pack")
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(place + 30)
        file.write(b"\xa5" * 40)
    here = Git(repository.path, 30)
    assert here.blobs([BAD, GOOD], 100_000) == {BAD: Damaged(BAD, "it is damaged"), GOOD: b"good"}
    assert mend(here, TEXT)
    assert Git(repository.path, 30).blobs([BAD], 100_000) == {BAD: TEXT}


def test_a_damaged_blob_that_is_too_large_anyway_is_told_of_as_well(repository: Repository) -> None:
    truncated(loose(repository.path, BAD))
    here = Git(repository.path, 30)
    assert here.blobs([BAD, GOOD], len(TEXT) - 1) == {BAD: Damaged(BAD, "it is damaged"), GOOD: b"good"}


def test_what_is_no_file_is_told_as_what_it_is(repository: Repository) -> None:
    tree = git(repository.path, "rev-parse", "main^{tree}")
    assert Git(repository.path, 30).blobs([tree, GOOD], 100) == {
        tree: Damaged(tree, "it is a tree and no file"),
        GOOD: b"good",
    }


def test_one_bad_among_thousands_costs_a_few_processes_at_first_and_one_from_then_on(repository: Repository) -> None:
    files: dict[str, bytes | None] = {f"users/u{number}/m.yaml": b"%d" % number for number in range(3000)}
    repository.commit(files)
    ids = [object_id("blob", content or b"") for content in files.values()]
    here = CountingGit(repository.path, 30)
    garbled_behind_its_head(loose(repository.path, BAD))
    found = here.blobs([*ids[:1500], BAD, *ids[1500:]], 100_000)
    assert found.pop(BAD) == Damaged(BAD, "it is damaged")
    assert found == dict(zip(ids, files.values(), strict=True))
    assert here.started <= 6
    here.blobs([GOOD], 100)
    here.started = 0
    here.blobs([GOOD, BAD], 100_000)
    assert here.started == 1, "the process that stays goes on: what is bad is asked for alone"


def test_more_damage_than_a_few_files_is_the_repositorys(repository: Repository) -> None:
    absent = [f"{number:040x}" for number in range(1, blobs_module.MOST_DAMAGED + 2)]
    here = Git(repository.path, 30)
    with pytest.raises(SourceUnreachable, match="missing or corrupted"):
        here.blobs([GOOD, *absent], 100)
    found = here.blobs([GOOD, *absent[1:]], 100)
    assert found.pop(GOOD) == b"good"
    assert all(isinstance(each, Damaged) for each in found.values())


@pytest.mark.parametrize("script", ["exec sleep 60", "echo 'fatal: out of memory, malloc failed' >&2; exit 128"])
def test_a_git_that_hangs_or_fails_is_no_damage(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    here = Git(repository.path, 0.4)
    truncated(loose(repository.path, BAD))
    assert isinstance(Git(repository.path, 30).blobs([BAD], 100_000)[BAD], Damaged)
    put_git_on_path(tmp_path, monkeypatch, script)
    for ids in ([BAD], [GOOD, BAD]):
        with pytest.raises(SourceUnreachable):
            here.blobs(ids, 100_000)


def test_a_repository_that_is_gone_is_no_damage(repository: Repository) -> None:
    truncated(loose(repository.path, BAD))
    here = Git(repository.path, 30)
    here.blobs([BAD], 100_000)
    repository.path.rename(repository.path.with_name("away"))
    with pytest.raises(SourceUnreachable):
        here.blobs([BAD], 100_000)


@pytest.mark.parametrize("ruin", [ruin for ruin in RUINS if ruin is not deleted])
def test_whoever_has_the_content_mends_the_object(repository: Repository, ruin: Callable[[Path], None]) -> None:
    here = Git(repository.path, 30)
    ruin(loose(repository.path, BAD))
    here.write_objects([("blob", TEXT)])
    assert here.blobs([BAD], 100_000) == {BAD: Damaged(BAD, "it is damaged")}, "git itself does not mend it"
    assert mend(here, TEXT)
    assert here.blobs([BAD], 100_000) == {BAD: TEXT}
    git(repository.path, "fsck", "--strict", "main")
    assert not mend(here, TEXT)
    assert not mend(here, b"what nobody wrote")


def test_a_mirrors_damaged_blob_is_fetched_anew(tmp_path: Path, repository: Repository) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60)
    source.read(None)
    made_another(loose(tmp_path / "home" / MIRROR_FOLDER, BAD))
    assert source.blobs([BAD, GOOD], 100_000) == {BAD: TEXT, GOOD: b"good"}


def test_a_mirrors_damaged_blob_holds_up_nobody_while_the_remote_is_gone(
    tmp_path: Path, repository: Repository
) -> None:
    source = GitSource(repository.path.as_uri(), home=tmp_path / "home", patience_s=60)
    source.read(None)
    truncated(loose(tmp_path / "home" / MIRROR_FOLDER, BAD))
    repository.path.rename(repository.path.with_name("away"))
    assert source.blobs([BAD, GOOD], 100_000) == {BAD: Damaged(BAD, "it is damaged"), GOOD: b"good"}


@pytest.fixture
def clone(tmp_path: Path, repository: Repository) -> Path:
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(repository.path), str(folder))
    return folder


@pytest.mark.parametrize("ruin", RUINS)
def test_the_objects_of_a_clone_bring_it_back_as_the_message_says(
    repository: Repository, clone: Path, ruin: Callable[[Path], None]
) -> None:
    ruin(loose(repository.path, BAD))
    here = Git(repository.path, 30)
    assert isinstance(here.blobs([BAD], 100_000)[BAD], Damaged)
    subprocess.run(["cp", "-rf", f"{clone}/.git/objects/.", f"{repository.path}/objects/"], check=True)
    assert here.blobs([BAD], 100_000) == {BAD: TEXT}


@pytest.mark.parametrize("ruin", RUINS)
def test_another_version_can_be_pushed_as_the_message_says(
    repository: Repository, clone: Path, ruin: Callable[[Path], None]
) -> None:
    ruin(loose(repository.path, BAD))
    (clone / PATH).write_bytes(TEXT[100:])
    git(clone, "commit", "--quiet", "--all", "--message", "another version")
    git(clone, "push", "--quiet", "--no-thin", "origin", "HEAD:main")
    new = git(repository.path, "rev-parse", f"main:{PATH}")
    assert Git(repository.path, 30).blobs([new], 100_000) == {new: TEXT[100:]}
