"""The API where one file's content is damaged in the repository: that model says so, and everything else goes on."""

from __future__ import annotations

import pytest

from reconciler.core.entities import Record, State
from reconciler.names import RULES_FILE
from reconciler.shell.objects import object_id
from reconciler.spec import ServingSpec, parse
from tests.repositories import loose
from tests.webapi.client import MODELS, SPEC, Answer, Api, git

FILE = "users/alice/hello.yaml"
TWO = f"{SPEC}num_replicas: 2\n"


def damage(api: Api, text: str, *, missing: bool = False) -> str:
    """Ruin the object that holds `text`, and give its id."""
    blob = object_id("blob", text.encode())
    file = loose(api.folder / "specs.git", blob)
    if missing:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:20])
    return blob


def told(answer: Answer, blob: str, path: str = FILE) -> None:
    error = answer.json["error"]
    assert (answer.status_code, error["code"]) == (409, "file_damaged")
    assert error["details"] == {"path": path, "object": blob}
    assert "git fsck" in error["message"]


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_model_is_shown_as_such_in_its_detail_and_in_lists_with_all_others(api: Api, missing: bool) -> None:
    key = api.created(SPEC)
    other = api.created(SPEC.replace("hello", "other"))
    blob = damage(api, SPEC, missing=missing)
    shown = api.call("GET", f"{MODELS}/{key}").json["model"]
    assert (shown["state"], shown["blob"]) == ("QUEUED", blob)
    assert blob in shown["error_summary"]
    assert FILE in shown["error_summary"]
    items = {item["model_key"]: item for item in api.call("GET", MODELS).json["items"]}
    assert items[key] == shown
    assert items[other]["error_summary"] is None


def test_a_running_model_whose_new_version_is_damaged_is_shown_running(api: Api) -> None:
    key = api.created(SPEC)
    file = api.parts.store.read().files[key]
    api.record(
        Record(file.identity, file.blob, file.commit, State.RUNNING, file.commit.committed_at, spec=spec_of(api))
    )
    api.post(TWO)
    blob = damage(api, TWO)
    shown = api.call("GET", f"{MODELS}/{key}").json["model"]
    assert (shown["state"], shown["num_replicas"]) == ("RUNNING", 1)
    assert blob in shown["error_summary"]


def spec_of(api: Api, text: str = SPEC) -> ServingSpec:
    found = parse(text.encode(), owner="alice", limits=api.parts.settings.limits)
    assert isinstance(found, ServingSpec)
    return found


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_file_cannot_be_patched_and_can_be_replaced(api: Api, missing: bool) -> None:
    key = api.created(SPEC)
    blob = damage(api, SPEC, missing=missing)
    told(api.call("PATCH", f"{MODELS}/{key}", json={"num_replicas": 2}), blob)
    answer = api.post(TWO)
    assert (answer.status_code, answer.json["model_key"], answer.json["commit"]) == (202, key, api.head())
    assert api.content(FILE) == TWO
    assert api.call("PATCH", f"{MODELS}/{key}", json={"num_replicas": 3}).status_code == 200


@pytest.mark.parametrize("missing", [False, True])
def test_the_same_file_sent_again_mends_it_without_a_commit(api: Api, missing: bool) -> None:
    key = api.created(SPEC)
    head = api.head()
    damage(api, SPEC, missing=missing)
    answer = api.post(SPEC)
    assert (answer.status_code, answer.json["model_key"], answer.json["commit"]) == (202, key, head)
    assert api.head() == head
    assert api.content(FILE) == SPEC


def test_what_an_earlier_damaged_version_said_can_be_said_again(api: Api) -> None:
    api.created(SPEC)
    api.post(TWO)
    damage(api, SPEC)
    api.post(SPEC)
    assert api.content(FILE) == SPEC


def test_a_damaged_model_can_be_deleted_and_rolled_back(api: Api) -> None:
    key, first = api.created(SPEC), api.head()
    api.post(TWO)
    damage(api, TWO)
    answer = api.call("POST", f"{MODELS}/{key}/rollback", json={"to": first})
    assert answer.status_code == 202
    assert api.content(FILE) == SPEC
    other = api.created(SPEC.replace("hello", "other"))
    damage(api, SPEC.replace("hello", "other"), missing=True)
    assert api.call("DELETE", f"{MODELS}/{other}").status_code == 200
    assert [item["model_key"] for item in api.call("GET", MODELS).json["items"]] == [key]


@pytest.mark.parametrize("missing", [False, True])
def test_history_shows_every_commit_and_a_rollback_to_what_is_damaged_says_so(api: Api, missing: bool) -> None:
    key, first = api.created(SPEC), api.head()
    api.post(TWO)
    api.post(f"{SPEC}num_replicas: 3\n")
    blob = damage(api, SPEC, missing=missing)
    items = api.call("GET", f"{MODELS}/{key}/history").json["items"]
    assert [item["diff"] is not None for item in items] == [True, False, False], "two commits need what is damaged"
    assert items[2]["diff_is_cut"]
    told(api.call("POST", f"{MODELS}/{key}/rollback", json={"to": first}), blob)


def test_a_plan_with_a_damaged_file_says_that_it_changes_nothing_of_its_model(api: Api) -> None:
    api.created(SPEC)
    blob = damage(api, SPEC)
    answer = api.call("POST", "/api/v2/serve/plan", json={"spec": SPEC.replace("hello", "other")})
    assert answer.status_code == 200
    changes = {change["path"]: change for change in answer.json["changes"]}
    assert blob not in changes["users/alice/other.yaml"]["message"]
    assert changes[FILE]["effect"] == "block"
    assert blob in changes[FILE]["message"]


def test_a_write_below_a_damaged_folder_is_refused_at_once(api: Api) -> None:
    api.created(SPEC)
    head = api.head()
    tree = git(api.folder / "specs.git", "rev-parse", "main:users/alice")
    loose(api.folder / "specs.git", tree).write_bytes(b"")
    answer = api.post(TWO)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "source_unreachable")
    assert api.head() == head


def test_damaged_rules_cannot_be_changed_in_place(api: Api) -> None:
    api.created(SPEC)
    assert api.call("POST", "/api/v2/serve/suspend", json={"model": "alice/hello", "reason": "x"}).status_code == 202
    blob = damage(api, api.content(RULES_FILE))
    told(api.call("POST", "/api/v2/serve/resume", json={"model": "alice/hello"}), blob, RULES_FILE)
