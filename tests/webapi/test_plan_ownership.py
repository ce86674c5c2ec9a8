"""Plans where it matters whose commits count: what would be held is said before anybody merges it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argus import cli
from reconciler.settings import Settings
from tests.signing import SshKey, needs_ssh
from tests.webapi.client import ADMIN_TOKEN, Api, git, listening
from webapi.app import create_app
from webapi.parts import Parts

pytestmark = needs_ssh

PLAN = "/api/v2/serve/plan"
AUTHORS = {"ann@example.org": ("alice",), "root@example.org": ("*",)}
MINE, BOBS = "users/alice/a.yaml", "users/bob/b.yaml"
SHA = "1" * 40


def spec(suffix: str, replicas: int = 1) -> str:
    return f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\nnum_replicas: {replicas}\n"


def make(folder: Path, policy: str) -> Api:
    """Make an API whose users' models have been made by itself, and so count."""
    git(folder, "init", "--quiet", "--bare", "specs.git")
    for made in ("private/hf/demo", "private/users/alice", "signers/_admins"):
        (folder / made).mkdir(parents=True)
    (folder / "private/hf/demo/config.json").write_text("{}", encoding="utf-8")
    (folder / "private/hf/demo/model.safetensors").write_bytes(b"\x00")
    (folder / "admin-token").write_text(ADMIN_TOKEN, encoding="ascii")
    ownership = {"policy": policy, "authors": AUTHORS, "signers": "signers"}
    settings = Settings.model_validate(
        {"home": folder, "paths": {"private_root": "private"}, "spec_repo": {"ownership": ownership}}
    )
    app = create_app(settings)
    parts: Parts = app.extensions["argus"]
    api = Api(app, parts, folder)
    api.created(spec("a"), "alice")
    api.created(spec("b"), "bob")
    return api


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[Api]:
    """Make one that goes by the author's address."""
    api = make(tmp_path, "author_map")
    yield api
    api.parts.reader._engine.dispose()


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Api]:
    """Make one that asks for signatures."""
    api = make(tmp_path, "signed")
    yield api
    api.parts.reader._engine.dispose()


@pytest.fixture
def trusting(tmp_path: Path) -> Iterator[Api]:
    """Make one that trusts whoever can push."""
    api = make(tmp_path, "trust_branch")
    yield api
    api.parts.reader._engine.dispose()


def clone(api: Api) -> Path:
    folder = api.folder / "clone"
    git(api.folder, "clone", "--quiet", str(api.folder / "specs.git"), "clone")
    git(folder, "checkout", "--quiet", "-b", "topic")
    return folder


def commit(folder: Path, who: str, files: dict[str, str | None], *, key: SshKey | None = None, say: str = "x") -> str:
    for path, text in files.items():
        if text is None:
            (folder / path).unlink()
        else:
            (folder / path).write_text(text, encoding="utf-8")
    git(folder, "add", "--all")
    author = ["-c", f"user.name={who.title()}", "-c", f"user.email={who}@example.org"]
    git(folder, *author, *(key.git_options if key else []), "commit", "--quiet", "--allow-empty", "-m", say)
    return git(folder, "rev-parse", "HEAD")


def planned(api: Api, who: str = "admin", **body: Any) -> Any:
    answer = api.call("POST", PLAN, who, json=body)
    assert answer.status_code == 200, answer.json
    return answer.json


def by(who: str, path: str = MINE, did: str = "changed", **more: Any) -> dict[str, Any]:
    return {"sha": SHA, "author": who.title(), "email": f"{who}@example.org", "changes": {path: did}, **more}


def command(api: Api, capsys: pytest.CaptureFixture[str], form: str, who: str = "admin") -> str:
    with listening(api) as url:
        arguments = ["plan", "main..topic", "--repo", str(api.folder / "clone"), "--server", url, "--format", form]
        assert cli.main(arguments, {"ARGUS_TOKEN": api.token(who)}) == 0
    return capsys.readouterr().out


def test_a_change_is_planned_as_its_authors_who_may_not_write_there(mapped: Api) -> None:
    found = planned(mapped, files={MINE: spec("a", 3)}, commits=[by("eve")])
    [change] = [each for each in found["changes"] if each["path"] == MINE]
    assert (change["effect"], change["held"]["kind"]) == ("withhold", "policy")
    assert change["written_by"] == {"name": "Eve", "email": "eve@example.org", "commit": SHA}
    for part in ("Eve <eve@example.org>, whose e-mail", f"changed {MINE}, which belongs to alice", "right would be"):
        assert part in change["message"]
    assert found["policy"] == {"name": "author_map", "notes": []}


@pytest.mark.parametrize("who", ["ann", "root"])
def test_a_change_by_somebody_who_may_write_there_counts(mapped: Api, who: str) -> None:
    found = planned(mapped, files={MINE: spec("a", 3)}, commits=[by(who)])
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    [change] = [each for each in found["changes"] if each["path"] == MINE]
    assert change["written_by"]["name"] == who.title()


def test_what_is_sent_without_authors_is_the_callers_who_plans_only_what_she_may_write(mapped: Api) -> None:
    found = planned(mapped, "alice", files={MINE: spec("a", 3)})
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    assert found["policy"] is None
    assert {each["written_by"] for each in found["changes"]} == {None}
    for body in ({"files": {BOBS: spec("b", 3)}}, {"files": {BOBS: None}, "commits": [by("root", BOBS, "removed")]}):
        answer = mapped.call("POST", PLAN, "alice", json=body)
        assert answer.status_code == 403
        assert "outside of users/alice/" in answer.json["error"]["message"]


def test_an_acceptance_takes_what_a_stranger_wrote(mapped: Api) -> None:
    accepts = {**by("ann"), "sha": "2" * 40, "changes": {}, "accepts": [MINE]}
    found = planned(mapped, "alice", files={MINE: spec("a", 3)}, commits=[by("eve"), accepts])
    assert "withhold" not in {each["effect"] for each in found["changes"]}


def test_what_is_said_of_other_paths_than_those_planned_is_not_repeated(mapped: Api) -> None:
    sent = by("eve", "users/bob/<secret>", accepts=["users/carol/x"])
    found = planned(mapped, files={MINE: spec("a", 3)}, commits=[sent])
    assert "secret" not in json.dumps(found)


def test_signatures_that_were_not_sent_are_said_to_be_unknown_in_one_line(signed: Api) -> None:
    found = planned(signed, files={MINE: spec("a", 3)}, commits=[by("ann")])
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    [note] = found["policy"]["notes"]
    assert note.startswith("the policy signed asks for signatures, which are not sent")
    assert MINE in note


def test_the_committers_line_of_the_api_is_no_reason_to_guess(mapped: Api) -> None:
    found = planned(mapped, files={MINE: spec("a", 3)}, commits=[by("ann", by_api=True)])
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    assert len(found["policy"]["notes"]) == 1


def test_where_the_branch_is_trusted_nothing_is_held_and_who_wrote_it_is_said(trusting: Api) -> None:
    found = planned(trusting, files={MINE: spec("a", 3)}, commits=[by("eve")])
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    assert found["policy"] == {"name": "trust_branch", "notes": []}


@pytest.mark.parametrize(
    "body",
    [
        {"spec": spec("a"), "user_id": "alice", "commits": [by("ann")]},
        {"head": SHA, "commits": [by("ann")]},
        {"files": {MINE: None}, "commits": [by("ann")] * 201},
        {"files": {MINE: None}, "commits": [by("ann", did="renamed")]},
        {"files": {MINE: None}, "commits": [{"sha": SHA}]},
        {"files": {MINE: None}, "commits": [by("a" * 201)]},
    ],
)
def test_what_is_no_list_of_commits_is_400(mapped: Api, body: dict[str, Any]) -> None:
    answer = mapped.call("POST", PLAN, "admin", json=body)
    assert answer.status_code == 400, answer.json
    assert "commits" in json.dumps(answer.json)


def test_a_pushed_commit_is_judged_by_its_real_signatures(signed: Api) -> None:
    key = SshKey(signed.folder, "root-key")
    (signed.folder / "signers/_admins/root.pub").write_text(key.public, encoding="ascii")
    folder = clone(signed)
    commit(folder, "ann", {MINE: spec("a", 2)})
    commit(folder, "root", {BOBS: spec("b", 2)}, key=key)
    git(folder, "push", "--quiet", "origin", "topic")
    found = planned(signed, head=git(folder, "rev-parse", "topic"))
    changes = {each["path"]: each for each in found["changes"]}
    assert changes[MINE]["held"]["kind"] == "policy"
    assert "Ann <ann@example.org>, not signed, changed" in changes[MINE]["message"]
    assert changes[BOBS]["held"] is None
    assert changes[BOBS]["written_by"]["name"] == "Root"
    assert found["policy"] == {"name": "signed", "notes": []}


def test_rules_of_a_pushed_commit_that_would_not_count_hold_nothing_and_are_told(mapped: Api) -> None:
    folder = clone(mapped)
    commit(folder, "ann", {MINE: spec("a", 3), "argus.yaml": "suspend: {all: so be it}\n"})
    git(folder, "push", "--quiet", "origin", "topic")
    found = planned(mapped, head=git(folder, "rev-parse", "topic"))
    assert "withhold" not in {each["effect"] for each in found["changes"]}
    [note] = found["policy"]["notes"]
    assert "which only admins may write" in note


def test_the_command_tells_each_files_last_author_and_what_would_be_held_in_every_form(
    mapped: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = clone(mapped)
    commit(folder, "eve", {MINE: spec("a", 2), BOBS: spec("b", 2)})
    mine = commit(folder, "ann", {MINE: spec("a", 3)})
    theirs = commit(folder, "ann", {BOBS: spec("b", 3)})
    text = command(mapped, capsys, "text")
    assert "! bob/b: held back (policy), would be" in text
    assert f"last written by Ann <ann@example.org> in {mine[:12]}" in text
    assert f"Held back: Ann <ann@example.org>, who may write for alice, changed {BOBS}" in text
    found = json.loads(command(mapped, capsys, "json"))
    assert {each["path"]: each["written_by"]["commit"] for each in found["changes"]} == {MINE: mine, BOBS: theirs}
    assert {each["path"]: each["effect"] == "withhold" for each in found["changes"]} == {MINE: False, BOBS: True}
    markdown = command(mapped, capsys, "markdown")
    assert "held back (policy)" in markdown
    assert "last written by Ann &#60;ann&#64;example.org&#62;" in markdown
    assert "ann@example.org" not in markdown


def test_the_command_says_in_every_form_that_a_server_cannot_see_signatures(
    signed: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(clone(signed), "ann", {MINE: spec("a", 3), "users/alice/new.yaml": spec("new")})
    for form in ("text", "markdown", "json"):
        said = command(signed, capsys, form)
        assert f"whether {MINE} and 1 more would be held is not known here" in said.replace("&#95;", "_")
        assert "held back" not in said
