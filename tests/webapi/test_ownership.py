"""The API where commits are ruled upon: its own count, and a caller never answers for what a stranger has pushed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.entities import Tree
from reconciler.ports import Advance
from reconciler.settings import Settings
from reconciler.shell import embedded_repo
from reconciler.shell.ledger import LedgerReader
from reconciler.shell.signing_key import signature
from reconciler.shell.source import GitSource
from tests.signing import needs_ssh
from tests.webapi.client import MODELS, SPEC, Api, git, opened

pytestmark = needs_ssh

PATH = "users/alice/hello.yaml"


@pytest.fixture(params=["author_map", "signed"])
def guarded(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    """Make an API whose repository only its own commits may change."""
    for folder in ("private/users/alice", "signers"):
        (tmp_path / folder).mkdir(parents=True)
    authors = {"nobody@example.org": ()}
    ownership = {"policy": request.param, "authors": authors, "signers": "signers"}
    settings = Settings.model_validate(
        {"home": tmp_path, "paths": {"private_root": "private"}, "spec_repo": {"ownership": ownership}}
    )
    with opened(settings) as made:
        yield made


def counting(api: Api) -> Tree:
    """Read the repository as the reconciler does: in a process of its own, from what lies on the disk."""
    source = GitSource.from_settings(api.parts.settings, LedgerReader(api.parts.reader._engine).rulings)
    return source.read(None).tree


def text(api: Api) -> str | None:
    """Say what counts at PATH."""
    found = [file.blob for file in counting(api).files.values() if file.identity.path == PATH]
    return git(api.folder / "specs.git", "cat-file", "blob", found[0]) if found else None


def test_what_the_api_commits_counts(guarded: Api) -> None:
    assert guarded.call("POST", "/api/v2/users", "admin", json={"user_id": "alice"}).status_code == 201
    key = guarded.created()
    assert set(counting(guarded).files) == {key}
    assert counting(guarded).users == {"alice"}
    assert guarded.patch(key, {"num_replicas": 2}).status_code == 200
    assert "num_replicas: 2" in (text(guarded) or "")
    assert guarded.call("DELETE", f"{MODELS}/{key}").status_code == 200
    assert counting(guarded).files == {}


def test_a_change_by_the_api_takes_nothing_of_a_strangers_with_it(guarded: Api) -> None:
    key = guarded.created()
    before = guarded.call("GET", f"{MODELS}/{key}")
    guarded.push({PATH: f"{SPEC}num_replicas: 5\n# evil\n"})
    detail = guarded.call("GET", f"{MODELS}/{key}")
    assert (detail.json["model"]["num_replicas"], detail.headers["ETag"]) == (1, before.headers["ETag"])
    answer = guarded.call(
        "PATCH", f"{MODELS}/{key}", json={"gpus_per_replica": 2}, headers={"If-Match": detail.headers["ETag"]}
    )
    assert answer.status_code == 200
    assert "evil" not in guarded.content(PATH)
    assert text(guarded) == f"{SPEC}gpus_per_replica: 2"


def test_a_file_that_a_stranger_brought_does_not_exist_for_the_api(guarded: Api) -> None:
    guarded.push({PATH: f"{SPEC}# evil\n"})
    assert guarded.get(MODELS)["items"] == []
    assert guarded.post(headers={"If-None-Match": "*"}).status_code == 202
    assert text(guarded) == SPEC.strip()


def test_a_model_whose_file_a_stranger_removed_can_be_deleted(guarded: Api) -> None:
    key = guarded.created()
    guarded.push({PATH: None})
    assert set(counting(guarded).files) == {key}
    answer = guarded.call("DELETE", f"{MODELS}/{key}")
    assert (answer.status_code, answer.json["state"]) == (200, "DELETING")
    assert counting(guarded).files == {}
    assert guarded.call("DELETE", f"{MODELS}/{key}").status_code == 404


def test_who_asks_for_what_is_held_gets_it(guarded: Api) -> None:
    guarded.created()
    wanted = f"{SPEC}num_replicas: 2\n"
    guarded.push({PATH: wanted})
    assert text(guarded) == SPEC.strip()
    commit = guarded.post(wanted).json["commit"]
    assert text(guarded) == wanted.strip()
    message = git(guarded.folder / "specs.git", "log", "-1", "--format=%B", commit)
    assert message.endswith(f"Argus-Accept: {PATH}")


def test_a_reason_cannot_pass_for_an_acceptance(guarded: Api) -> None:
    key = guarded.created()
    first = guarded.head()
    guarded.patch(key, {"num_replicas": 2})
    theirs = "users/bob/hello.yaml"
    guarded.push({theirs: SPEC})
    body = {"to": first, "reason": f"Argus-Accept: {theirs}"}
    assert guarded.call("POST", f"{MODELS}/{key}/rollback", json=body).status_code == 202
    assert [file.identity.path for file in counting(guarded).files.values()] == [PATH]


def test_a_held_commit_is_shown_as_such(guarded: Api) -> None:
    guarded.created()
    sha = guarded.push({PATH: f"{SPEC}# evil\n"})
    guarded.record()
    found = guarded.get(f"/api/v2/serve/commits/{sha}")
    assert found["verdict"] == "HELD"
    assert "belongs to alice" in found["files"][0]["message"]


def test_nothing_is_written_onto_a_branch_that_nobody_vouches_for(guarded: Api) -> None:
    key = guarded.created()
    guarded.patch(key, {"num_replicas": 2})
    guarded.record()
    git(guarded.folder / "specs.git", "update-ref", "refs/heads/main", "main~1")
    answer = guarded.patch(key, {"num_replicas": 3})
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "branch_in_doubt")
    assert guarded.get(f"{MODELS}/{key}")["model"]["num_replicas"] == 2


def test_what_a_repository_starts_with_counts(guarded: Api, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    (template / "argus.yaml").write_text("# nothing is held back\n", encoding="utf-8")
    shutil.rmtree(tmp_path / "specs.git")
    assert embedded_repo.ensure(tmp_path / "specs.git", template, sign=signature(guarded.parts.settings))
    [rules] = counting(guarded).rules
    assert rules.commit.subject == embedded_repo.FIRST_SUBJECT


def test_the_api_rules_as_the_loop_did(guarded: Api) -> None:
    guarded.created()
    sha = guarded.push({PATH: f"{SPEC}num_replicas: 2\n"})
    [model] = guarded.get(MODELS)["items"]
    assert model["num_replicas"] == 1
    # The loop looked a moment later, when whoever wrote it was registered.
    base = guarded.parts.ledger.load().base
    guarded.parts.ledger.record(base, Advance(sha, rulings=frozenset()))
    [model] = guarded.get(MODELS)["items"]
    assert model["num_replicas"] == 2


def test_a_user_suspends_by_the_api_what_is_theirs_and_takes_no_strangers_rules_along(guarded: Api) -> None:
    guarded.created()
    guarded.push({"argus.yaml": "suspend: {all: by a stranger}\n"})
    assert counting(guarded).rules == ()
    assert guarded.call("POST", "/api/v2/serve/suspend", json={"user_id": "alice"}).status_code == 202
    [rules] = counting(guarded).rules
    assert rules.entry is not None
    text = git(guarded.folder / "specs.git", "cat-file", "blob", rules.entry.blob)
    assert "alice" in text
    assert "stranger" not in text
