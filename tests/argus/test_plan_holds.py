"""`argus plan` says what would be held back, and what it would be otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from argus import cli
from tests.loop.world import OTHER, spec
from tests.repositories import Repository, git

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Give a repository with six models on main."""
    made = Repository(tmp_path / "specs.git")
    made.commit({f"users/alice/{name}.yaml": spec(name).encode() for name in NAMES})
    return made


def change(repository: Repository, files: dict[str, str | None]) -> None:
    """Put a commit on the branch `change`, which begins at main."""
    main = git(repository.path, "rev-parse", "main")
    repository.commit({path: None if text is None else text.encode() for path, text in files.items()})
    git(repository.path, "update-ref", "refs/heads/change", "refs/heads/main")
    git(repository.path, "update-ref", "refs/heads/main", main)


def plan(repository: Repository, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["plan", "main..change", "--repo", str(repository.path), "--format", form], {}) == 0
    return capsys.readouterr().out


def test_a_mass_delete_is_planned_as_braked_with_the_trailer_that_it_needs(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    change(repository, {f"users/alice/{name}.yaml": None for name in NAMES[:5]})
    said = plan(repository, "text", capsys)
    assert "5 held back" in said.splitlines()[0]
    assert "  ! alice/a: held back (brake), would be removed\n" in said
    assert said.count("removes 5 of 6 running models at once") == 1
    assert "Argus-Allow-Removal: 5" in said
    assert "GPUs: 6 → 6" in said
    found = json.loads(plan(repository, "json", capsys))
    assert [each["held"] for each in found["changes"]] == [{"kind": "brake", "then": "remove"}] * 5
    assert "Argus&#45;Allow" not in plan(repository, "markdown", capsys)
    assert "5 held back" in plan(repository, "markdown", capsys)


def test_two_of_six_may_go(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    change(repository, {f"users/alice/{name}.yaml": None for name in NAMES[:2]})
    assert "2 removed" in plan(repository, "text", capsys).splitlines()[0]


def test_a_trailer_of_an_earlier_commit_allows_no_new_removal(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit({"README.md": b"x"}, message="x\n\nArgus-Allow-Removal: 100\n")
    change(repository, {f"users/alice/{name}.yaml": None for name in NAMES})
    assert "6 held back" in plan(repository, "text", capsys).splitlines()[0]


def test_a_change_in_a_freeze_says_until_when_and_what_it_would_be(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit({"argus.yaml": b'freeze: [{cron: "* * * * *", duration: 31d, reason: year end}]\n'})
    change(repository, {"users/alice/a.yaml": spec("a", OTHER), "users/bob/new.yaml": spec("new")})
    said = plan(repository, "text", capsys)
    assert "alice/a: held back (frozen), would be rolled" in said
    assert "bob/new: held back (frozen), would be created" in said
    assert "year end" in said
    assert "frozen until 2" in said


def test_a_change_that_lifts_its_own_suspension_is_not_held(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit({"argus.yaml": b"suspend: {users: {alice: away}}\n"})
    files: dict[str, str | None] = {"users/alice/a.yaml": spec("a", OTHER)}
    change(repository, files)
    said = plan(repository, "text", capsys)
    assert "alice/a: held back (suspended), would be rolled" in said
    assert "the models of alice are suspended: away" in said
    git(repository.path, "update-ref", "-d", "refs/heads/change")
    change(repository, {**files, "argus.yaml": None})
    assert "1 rolled" in plan(repository, "text", capsys).splitlines()[0]
