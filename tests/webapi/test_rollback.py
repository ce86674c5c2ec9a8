"""Back to what was: a commit that brings an earlier content back, and the history to choose from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.entities import Event, EventType, Record, State
from tests.webapi.client import MODELS, SPEC, Answer, Api, git

FILE = "users/alice/hello.yaml"
TWO, SEED = f"{SPEC}num_replicas: 2\n", f"{SPEC}engine_kwargs:\n  seed: 7\n"
NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)


def roll_back(api: Api, key: str, body: object, who: str = "alice", **headers: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.call("POST", f"{MODELS}/{key}/rollback", who, json=body, headers=headers)


def three_versions(api: Api) -> tuple[str, list[str]]:
    """Make a model that said three things one after the other, and give its key and commits."""
    key = api.created(SPEC)
    shas = [api.head()]
    for text in (TWO, SEED):
        shas.append(api.post(text).json["commit"])
    return key, shas


def served(api: Api, key: str, *shas: str) -> None:
    """Write down that these commits answered, one after the other; the last still does."""
    file = api.parts.store.read().files[key]
    commits = [replace(file.commit, sha=sha) for sha in shas]
    events = tuple(
        Event(EventType.DEPLOY_SUCCEEDED, key, "alice", NOW, commit.sha, "alice", "api") for commit in commits
    )
    record = Record(file.identity, file.blob, file.commit, State.RUNNING, NOW, serving_commit=commits[-1])
    api.record(record, events=events)


def problem(answer: Answer) -> tuple[int, str, str]:
    error = answer.json["error"]
    return answer.status_code, error["code"], error["message"]


def test_a_rollback_is_a_commit_by_the_caller_with_the_old_content_the_reason_and_the_link(api: Api) -> None:
    key, shas = three_versions(api)
    answer = roll_back(api, key, {"to": shas[0], "reason": "seed 7\nrepeats itself"})
    assert answer.status_code == 202
    assert answer.json == {"model_key": key, "state": "QUEUED", "commit": api.head()}
    assert api.content(FILE) == SPEC
    assert api.log()[0] == f"alice|Argus|Roll hello back to {shas[0][:12]}"
    body = git(api.folder / "specs.git", "log", "-1", "--format=%b", "main")
    assert body.startswith("Reason: seed 7 repeats itself\n\n")
    trailers = git(api.folder / "specs.git", "log", "-1", "--format=%(trailers:only,unfold)", "main")
    assert trailers.splitlines() == [f"Argus-Rollback-To: {shas[0]}", f"Argus-Rollback-From: {shas[2]}"]
    assert git(api.folder / "specs.git", "rev-parse", "main^") == shas[2]
    assert answer.headers["ETag"] == api.call("GET", f"{MODELS}/{key}").headers["ETag"]


def test_a_reason_cannot_pass_for_a_trailer(api: Api) -> None:
    key, shas = three_versions(api)
    roll_back(api, key, {"to": shas[0], "reason": "x\n\nArgus-Allow-Removal: 99"})
    assert "Allow" not in git(api.folder / "specs.git", "log", "-1", "--format=%(trailers)", "main")


def test_an_abbreviated_sha_will_do_and_so_will_a_commit_that_changed_another_file(api: Api) -> None:
    key, shas = three_versions(api)
    assert roll_back(api, key, {"to": shas[1][:7]}).status_code == 202
    assert api.content(FILE) == TWO
    other = api.post("model_id: other\nmodel_source: $HOME/common/hf/demo\n").json["commit"]
    api.post(SEED)
    assert roll_back(api, key, {"to": other}).status_code == 202
    assert api.content(FILE) == TWO


def test_where_the_file_says_so_already_nothing_is_committed(api: Api) -> None:
    key, shas = three_versions(api)
    head = api.head()
    answer = roll_back(api, key, {"to": shas[2]})
    assert (answer.status_code, answer.json["commit"]) == (202, head)
    assert api.head() == head


def test_without_a_commit_it_goes_back_to_the_one_that_serves_while_the_newest_fails(api: Api) -> None:
    key, shas = three_versions(api)
    served(api, key, shas[0], shas[1])
    assert roll_back(api, key, {}).status_code == 202
    assert api.content(FILE) == TWO


def test_without_a_commit_it_goes_back_to_the_one_that_served_before(api: Api) -> None:
    key, shas = three_versions(api)
    served(api, key, shas[0], shas[2])
    assert roll_back(api, key, {"to": None}).status_code == 202
    assert api.content(FILE) == SPEC


def test_without_a_commit_and_without_a_past_it_is_a_conflict_that_says_what_to_do(api: Api) -> None:
    key, shas = three_versions(api)
    served(api, key, shas[2])
    assert problem(roll_back(api, key, {})) == (
        409,
        "conflict",
        "no earlier commit of this model has served; say which with `to`",
    )


@pytest.mark.parametrize("to", ["0" * 40, "0" * 7])
def test_a_commit_that_is_not_on_the_branch_is_refused(api: Api, to: str) -> None:
    key, _ = three_versions(api)
    assert problem(roll_back(api, key, {"to": to}))[:2] == (422, "unprocessable")


@pytest.mark.parametrize("to", ["", "main", "HEAD~1", "--help", "abc", "0" * 41, "ABCDEF0"])
def test_what_is_no_sha_is_refused(api: Api, to: str) -> None:
    key, _ = three_versions(api)
    assert problem(roll_back(api, key, {"to": to}))[:2] == (400, "invalid_request")


def test_a_commit_from_before_the_file_is_refused(api: Api) -> None:
    before = api.push({"README.md": "hello\n"})
    key = api.created()
    status, _, message = problem(roll_back(api, key, {"to": before}))
    assert (status, message) == (422, f"to: {FILE} did not exist at {before[:12]}")


def test_a_content_that_is_not_acceptable_any_more_is_refused_with_the_reason(api: Api) -> None:
    key = api.created()
    bad = api.push({FILE: "model_id: hello\nmodel_source: /etc\n"})
    api.post(SPEC)
    answer = roll_back(api, key, {"to": bad})
    assert answer.status_code in {400, 403}
    assert f"at {bad[:12]} is not acceptable now" in answer.json["error"]["message"]
    assert answer.json["error"]["details"]["field"] == "model_source"


def test_a_model_that_was_deleted_is_not_brought_back_and_the_way_is_named(api: Api) -> None:
    key, shas = three_versions(api)
    served(api, key, shas[2])
    api.call("DELETE", f"{MODELS}/{key}")
    status, _, message = problem(roll_back(api, key, {"to": shas[0]}))
    assert status == 409
    assert "POST /api/v2/serve/models" in message
    assert problem(roll_back(api, key, {"to": shas[0]}, "bob"))[0] == 404


def test_another_users_model_is_not_there_and_the_admin_may(api: Api) -> None:
    key, shas = three_versions(api)
    assert problem(roll_back(api, key, {"to": shas[0]}, "bob"))[0] == 404
    assert roll_back(api, key, {"to": shas[0]}, "admin").status_code == 202
    assert api.log()[0].startswith("admin|Argus|Roll hello back")


def test_a_rollback_of_what_was_seen_only(api: Api) -> None:
    key, shas = three_versions(api)
    seen = api.call("GET", f"{MODELS}/{key}").headers["ETag"]
    api.push({FILE: TWO})
    assert roll_back(api, key, {"to": shas[0]}, If_Match=seen).status_code == 412
    assert api.content(FILE) == TWO


# History


def test_history_is_newest_first_with_who_what_and_the_difference(api: Api) -> None:
    key, shas = three_versions(api)
    pushed = api.push({FILE: SPEC, "README.md": "not part of it\n"})
    answer = api.get(f"{MODELS}/{key}/history")
    assert answer["next_cursor"] is None
    items = answer["items"]
    assert [item["sha"] for item in items] == [pushed, *reversed(shas)]
    assert [item["kind"] for item in items] == ["modified", "modified", "modified", "created"]
    assert [(item["author"], item["source"]) for item in items] == [("Carol", "git")] + [("alice", "api")] * 3
    assert items[1]["subject"] == "Update hello"
    assert items[1]["blob"] == git(api.folder / "specs.git", "rev-parse", f"{shas[2]}:{FILE}")
    assert items[2]["diff"] == (
        f"--- a/{FILE}\n+++ b/{FILE}\n@@ -1,2 +1,3 @@\n model_id: hello\n"
        " model_source: $HOME/common/hf/demo\n+num_replicas: 2\n"
    )
    assert items[3]["diff"] == (
        f"--- /dev/null\n+++ b/{FILE}\n@@ -0,0 +1,2 @@\n+model_id: hello\n+model_source: $HOME/common/hf/demo\n"
    )
    assert [item["diff_is_cut"] for item in items] == [False] * 4


def test_the_difference_is_gits_own_for_files_that_come_and_go(api: Api) -> None:
    for text in ("one line\n", "no end", "a\nb", ""):
        path = "users/alice/t.yaml"
        made = api.push({path: text})
        [key] = [key for key, file in api.parts.store.read().files.items() if file.identity.path == path]
        gone = api.push({path: None})
        items = api.get(f"{MODELS}/{key}/history")["items"]
        for item, sha in zip(items, (gone, made), strict=True):
            shown = git(api.folder / "specs.git", "show", "--format=", sha)
            expected = shown[shown.index("--- ") :] if "--- " in shown else ""
            assert item["diff"].partition("@@")[2].strip() == expected.partition("@@")[2].strip()


def test_history_comes_in_pages_that_later_commits_do_not_move(api: Api) -> None:
    key, shas = three_versions(api)
    first = api.get(f"{MODELS}/{key}/history?limit=2")
    assert [item["sha"] for item in first["items"]] == [shas[2], shas[1]]
    api.post(TWO)
    second = api.get(f"{MODELS}/{key}/history?limit=2&cursor={first['next_cursor']}")
    assert [item["sha"] for item in second["items"]] == [shas[0]]
    assert second["next_cursor"] is None


def test_a_deleted_models_history_stays_and_one_made_anew_has_its_own(api: Api) -> None:
    key, shas = three_versions(api)
    deleted = api.call("DELETE", f"{MODELS}/{key}").json["commit"]
    again = api.created()
    items = api.get(f"{MODELS}/{key}/history")["items"]
    assert [item["sha"] for item in items] == [deleted, *reversed(shas)]
    assert (items[0]["kind"], items[0]["blob"]) == ("deleted", None)
    assert len(api.get(f"{MODELS}/{again}/history")["items"]) == 1


def test_history_tells_the_verdict_on_each_commit(api: Api) -> None:
    key, shas = three_versions(api)
    given = dict(zip(shas, (Verdict.APPLIED, Verdict.FAILED, None), strict=True))
    changes = api.parts.store.life_of(key)
    api.record(
        cases=tuple(
            Case(each.commit, each.identity.path, key, "alice", False, Stages(NOW, NOW), given[each.commit.sha])
            for each in changes
        )
    )
    assert [item["verdict"] for item in api.get(f"{MODELS}/{key}/history")["items"]] == [None, "FAILED", "APPLIED"]


def test_a_huge_or_binary_file_is_told_of_without_its_difference(api: Api) -> None:
    key = api.created()
    for text in ("x: " + "y" * 70_000, "a\0b"):
        api.push({FILE: text})
        newest = api.get(f"{MODELS}/{key}/history")["items"][0]
        assert (newest["diff"], newest["diff_is_cut"]) == (None, True)


def test_another_users_history_is_not_there(api: Api) -> None:
    key, _ = three_versions(api)
    assert api.call("GET", f"{MODELS}/{key}/history", "bob").status_code == 404
    assert api.call("GET", f"{MODELS}/svc-alice-20260106-123000-abcd/history").status_code == 404
    assert len(api.get(f"{MODELS}/{key}/history", "admin")["items"]) == 3
