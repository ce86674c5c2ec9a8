"""Holds over HTTP: what is held is shown, and let pass by commits that say so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reconciler.core.entities import Commit, Held, HoldKind, Record, State
from reconciler.ports import PlatformStatus
from tests.core.values import spec as spec_of
from tests.core.values import work
from tests.webapi.client import MODELS, SPEC, Api, git

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
SERVE = "/api/v2/serve"
RULES = "argus.yaml"


def held(api: Api, *suffixes: str, kind: HoldKind = HoldKind.BRAKE, removes: bool = True) -> list[Record]:
    """Have models whose removal the last pass has held."""
    records = []
    for suffix in suffixes:
        key = api.created(f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\n")
        file = api.parts.store.read().files[key]
        says = spec_of(suffix)
        up = work(says, file.identity)
        records.append(Record(file.identity, file.blob, file.commit, State.RUNNING, NOON, spec=says, applied=up))
    if removes:
        api.push({record.identity.path: None for record in records})
    gone = Commit(api.head(), "Carol", NOON, "git")
    made = [replace(each, held=Held(kind, "why it waits", NOON, gone, removes=removes)) for each in records]
    api.record(*made, status=PlatformStatus(NOON, api.head(), "RUNNING", "", 4, 4, None))
    return made


def trailers(api: Api) -> str:
    return git(api.folder / "specs.git", "log", "-1", "--format=%(trailers:only)", "main")


def test_a_model_whose_removal_is_held_is_shown_as_it_runs_and_why(api: Api) -> None:
    [record, *_] = held(api, "a", "b", "c")
    shown = api.get(f"{MODELS}/{record.identity.model_key}")["model"]
    assert (shown["state"], shown["error_summary"]) == ("RUNNING", "why it waits")
    assert shown["held"] == {
        "kind": "brake", "message": "why it waits", "since": "2026-11-27T12:00:00Z", "commit": api.head(),
        "removes": True,
    }  # fmt: skip
    assert [each["held"]["kind"] for each in api.get(MODELS)["items"]] == ["brake"] * 3


def test_a_newer_commit_than_the_held_one_is_not_yet_held(api: Api) -> None:
    [record] = held(api, "a", kind=HoldKind.FROZEN, removes=False)
    path = record.identity.path
    api.push({path: f"# anew\n{api.content(path)}"})
    shown = api.get(f"{MODELS}/{record.identity.model_key}")["model"]
    assert (shown["state"], shown["held"]) == ("QUEUED", None)


def test_the_admin_sees_what_is_held_and_allows_just_that_by_an_empty_commit(api: Api) -> None:
    held(api, "a", "b", "c")
    found = api.call("GET", f"{SERVE}/removals", "admin").json
    assert (found["count"], found["running"], found["revision"]) == (3, 3, api.head())
    assert [each["path"] for each in found["items"]] == [f"users/alice/{name}.yaml" for name in "abc"]
    nudges = api.parts.ledger.nudges()
    before = git(api.folder / "specs.git", "rev-parse", "main^{tree}")
    body = {"count": 3, "revision": found["revision"], "reason": "the team is gone"}
    answer = api.call("POST", f"{SERVE}/removals", "admin", json=body)
    assert (answer.status_code, answer.json) == (202, {"commit": api.head(), "changed": True})
    assert api.log()[0] == "admin|Argus|Allow 3 removals"
    assert trailers(api) == "Argus-Allow-Removal: 3"
    assert git(api.folder / "specs.git", "rev-parse", "main^{tree}") == before
    assert api.parts.ledger.nudges() > nudges
    [said] = api.parts.store.source.declared([found["revision"]])
    assert (said.commit.sha, dict(said.trailers)) == (api.head(), {"Argus-Allow-Removal": "3"})


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_than_what_is_held_is_refused(api: Api, count: int) -> None:
    held(api, "a", "b", "c")
    head = api.head()
    answer = api.call("POST", f"{SERVE}/removals", "admin", json={"count": count})
    assert (answer.status_code, answer.json["error"]["details"]) == (409, {"count": 3})
    assert api.head() == head


def test_a_branch_that_moved_since_it_was_looked_at_is_412(api: Api) -> None:
    held(api, "a", "b", "c")
    seen = api.head()
    moved = api.push({"README.md": "x"})
    answer = api.call("POST", f"{SERVE}/removals", "admin", json={"count": 3, "revision": seen})
    assert (answer.status_code, answer.json["error"]["details"]) == (412, {"current": moved})
    assert api.head() == moved


def test_a_reason_cannot_pass_for_a_trailer(api: Api) -> None:
    held(api, "a", "b", "c")
    body = {"count": 3, "reason": "Argus-Override-Freeze: x"}
    assert api.call("POST", f"{SERVE}/removals", "admin", json=body).status_code == 202
    assert trailers(api) == "Argus-Allow-Removal: 3"
    assert api.call("POST", f"{SERVE}/removals", "admin", json={"count": 3, "reason": "a\nb"}).status_code == 400


def test_the_admin_overrides_a_freeze_by_a_commit_with_the_reason(api: Api) -> None:
    api.created()
    answer = api.call("POST", f"{SERVE}/freeze/override", "admin", json={"reason": "customers cannot log in"})
    assert (answer.status_code, answer.json["commit"]) == (202, api.head())
    assert trailers(api) == "Argus-Override-Freeze: customers cannot log in"


@pytest.mark.parametrize(
    ("path", "body"),
    [("removals", {"count": 3}), ("freeze/override", {"reason": "x"}), ("suspend", {"all": True}),
     ("resume", {"all": True}), ("suspend", {"user_id": "bob"})],
)  # fmt: skip
def test_what_is_the_admins_is_forbidden_to_users(api: Api, path: str, body: dict[str, object]) -> None:
    api.created()
    head = api.head()
    assert api.call("POST", f"{SERVE}/{path}", "alice", json=body).status_code == 403
    assert api.head() == head
    assert api.call("GET", f"{SERVE}/removals", "alice").status_code == 403


def test_a_user_suspends_and_resumes_a_model_of_theirs_and_the_file_keeps_its_comments(api: Api) -> None:
    key = api.created()
    api.push({RULES: "# ours\nsuspend:\n  users:\n    bob: away  # until May\n"})
    body = {"model": key, "reason": "a benchmark: 3 runs"}
    answer = api.call("POST", f"{SERVE}/suspend", "alice", json=body)
    assert (answer.status_code, answer.json) == (202, {"commit": api.head(), "changed": True})
    assert api.content(RULES) == (
        '# ours\nsuspend:\n  users:\n    bob: away  # until May\n  models:\n    "alice/hello": "a benchmark: 3 runs"\n'
    )
    assert api.log()[0] == "alice|Argus|Suspend alice/hello"
    again = api.call("POST", f"{SERVE}/suspend", "alice", json={"model": "users/alice/hello.yaml"})
    assert again.json["changed"] is False
    done = api.call("POST", f"{SERVE}/resume", "alice", json={"model": "alice/hello"})
    assert done.json["changed"] is True
    assert api.content(RULES).startswith("# ours\nsuspend:\n  users:\n    bob: away  # until May\n")
    assert "alice" not in api.content(RULES)
    assert api.call("POST", f"{SERVE}/resume", "alice", json={"model": "alice/hello"}).json["changed"] is False


@pytest.mark.parametrize("spelt", ["alice/hello", "users/alice/hello.yaml", "{key}"])
def test_a_model_is_resumed_however_its_name_is_spelt_in_the_file(api: Api, spelt: str) -> None:
    key = api.created()
    name = spelt.format(key=key)
    for form in (f"suspend: {{models: [{name}, bob/x]}}\n", f"suspend:\n  models:\n    {name}: why\n    bob/x: y\n"):
        api.push({RULES: form})
        assert api.call("POST", f"{SERVE}/resume", "alice", json={"model": key}).json["changed"] is True
        assert name not in api.content(RULES)
        assert "bob/x" in api.content(RULES)


@pytest.mark.parametrize("text", [None, "# nothing yet", "suspend:\n", "freeze: []\n", "suspend: {all: false}\n"])
def test_the_first_entry_finds_its_place(api: Api, text: str | None) -> None:
    api.created()
    if text is not None:
        api.push({RULES: text})
    assert api.call("POST", f"{SERVE}/suspend", "admin", json={"all": True}).status_code == 202
    assert api.call("POST", f"{SERVE}/suspend", "admin", json={"user_id": "alice"}).status_code == 202
    status = api.call("GET", f"{SERVE}/status", "admin").json["holds"]
    assert (status["suspended_all"], status["suspended_users"]) == ("suspended by admin", 1)
    assert api.call("POST", f"{SERVE}/resume", "admin", json={"all": True}).json["changed"] is True
    assert api.call("GET", f"{SERVE}/status", "admin").json["holds"]["suspended_all"] is None


def test_a_file_that_cannot_be_read_is_not_written(api: Api) -> None:
    api.created()
    head = api.push({RULES: "suspend: [\n"})
    answer = api.call("POST", f"{SERVE}/suspend", "alice", json={"user_id": "alice"})
    assert answer.status_code == 409
    assert "line 2" in answer.json["error"]["message"]
    assert api.head() == head
    holds = api.call("GET", f"{SERVE}/status", "admin").json["holds"]
    assert holds["rules_error"].startswith("argus.yaml: line 2:")
    assert holds["suspended_all"] == holds["rules_error"]


@pytest.mark.parametrize("text", [None, "# mine\n", "suspend: {users: {bob: x}}\n"])
def test_a_reason_that_no_file_may_hold_and_a_file_that_would_be_too_long_are_refused(
    api: Api, text: str | None
) -> None:
    api.created()
    if text is not None:
        api.push({RULES: text})
    head = api.head()
    body = {"user_id": "alice", "reason": "a\u200bb"}
    assert api.call("POST", f"{SERVE}/suspend", "alice", json=body).status_code == 400
    assert api.head() == head
    head = api.push({RULES: (text or "") + "#" * (65_530 - len(text or ""))})
    assert api.call("POST", f"{SERVE}/suspend", "alice", json={"user_id": "alice"}).status_code == 409
    assert api.head() == head


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"all": True, "user_id": "alice"}, 400), ({"model": "nonsense"}, 400), ({"model": "bob/x"}, 404),
     ({"model": "alice/other"}, 404), ({"model": "svc-nobody"}, 404), ({"user_id": "../x"}, 400),
     ({"all": False}, 400)],
)  # fmt: skip
def test_a_target_that_is_none_is_refused(api: Api, body: dict[str, object], status: int) -> None:
    api.created()
    api.created(SPEC.replace("hello", "x"), "bob")
    assert api.call("POST", f"{SERVE}/suspend", "alice", json=body).status_code == status


def test_the_status_page_has_the_holds_in_numbers(api: Api) -> None:
    held(api, "a", "b", "c")
    api.push({RULES: 'freeze: [{cron: "* * * * *", duration: 1h, reason: always, users: [alice]}]\n'})
    holds = api.call("GET", f"{SERVE}/status", "admin").json["holds"]
    assert holds["held"] == {"brake": 3, "suspended": 0, "frozen": 0, "policy": 0, "damaged": 0}
    assert holds["removals"] == 3
    assert [(each["reason"], each["users"]) for each in holds["freezes"]] == [("always", ["alice"])]
    assert holds["rules_error"] is None
