"""What became of each commit, over HTTP: who sees what, in which order, and how one waits for it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.entities import Record, State
from tests.webapi.client import MODELS, SPEC, Api

COMMITS = "/api/v2/serve/commits"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def judged(api: Api, sha: str, verdict: Verdict | None, user: str | None = None, **known: Any) -> Case:
    """Give the case of a commit that touched one file of a user's."""
    [past] = api.parts.store.past(sha)
    change = next(each for each, _ in past.changes if user in {None, each.identity.user_id})
    identity = change.identity
    stages = Stages(change.commit.committed_at, seen=NOON)
    case = Case(change.commit, identity.path, identity.model_key, identity.user_id, False, stages, verdict)
    return replace(case, **known)


def test_a_commit_that_no_pass_has_seen_is_open_and_shows_git(api: Api) -> None:
    sha = api.post().json["commit"]
    shown = api.get(f"{COMMITS}/{sha}")
    assert (shown["sha"], shown["state"], shown["verdict"]) == (sha, "open", None)
    assert (shown["author"], shown["subject"]) == ("alice", "Create hello")
    assert shown["stages"]["committed"] == shown["committed_at"]
    assert shown["stages"]["seen"] is None
    [file] = shown["files"]
    assert (file["path"], file["verdict"]) == ("users/alice/hello.yaml", None)


def test_a_verdict_is_shown_with_its_reason_its_place_and_its_stages(api: Api) -> None:
    sha = api.post().json["commit"]
    api.record(cases=(judged(api, sha, Verdict.REJECTED, message="num_replicas: no count", line=3, column=15),))
    shown = api.get(f"{COMMITS}/{sha}")
    assert (shown["state"], shown["verdict"]) == ("closed", "REJECTED")
    [file] = shown["files"]
    assert (file["message"], file["line"], file["column"]) == ("num_replicas: no count", 3, 15)
    assert shown["stages"]["seen"] == "2026-11-22T12:00:00Z"
    assert shown["stages"]["ready"] is None


def test_the_worst_verdict_of_the_files_is_the_commits_and_an_open_one_leaves_it_open(api: Api) -> None:
    sha = api.push({"users/alice/a.yaml": SPEC, "users/bob/b.yaml": SPEC})
    good = judged(api, sha, Verdict.APPLIED, "alice", stages=Stages(NOON, NOON, NOON, NOON, NOON))
    late = NOON + timedelta(seconds=9)
    api.record(cases=(good, judged(api, sha, None, "bob", stages=Stages(NOON, late))))
    shown = api.get(f"{COMMITS}/{sha}", "admin")
    assert (shown["state"], shown["verdict"]) == ("open", None)
    assert (shown["stages"]["seen"], shown["stages"]["ready"]) == ("2026-11-22T12:00:09Z", None)
    api.record(cases=(judged(api, sha, Verdict.FAILED, "bob"),))
    assert api.get(f"{COMMITS}/{sha}", "admin")["verdict"] == "FAILED"


def test_users_see_their_own_files_of_a_commit_and_no_commit_of_others(api: Api) -> None:
    both = api.push({"users/alice/a.yaml": SPEC, "users/bob/b.yaml": SPEC})
    bobs = api.push({"users/bob/c.yaml": SPEC})
    api.record(
        cases=(
            judged(api, both, Verdict.APPLIED, "alice"),
            judged(api, both, Verdict.REJECTED, "bob"),
            judged(api, bobs, Verdict.APPLIED, "bob"),
        )
    )
    shown = api.get(f"{COMMITS}/{both}")
    assert (shown["verdict"], [file["path"] for file in shown["files"]]) == ("APPLIED", ["users/alice/a.yaml"])
    assert [item["sha"] for item in api.get(COMMITS)["items"]] == [both]
    assert [item["sha"] for item in api.get(COMMITS, "bob")["items"]] == [bobs, both]
    assert [len(item["files"]) for item in api.get(COMMITS, "admin")["items"]] == [1, 2]
    unknown = api.call("GET", f"{COMMITS}/{'0' * 40}")
    assert api.call("GET", f"{COMMITS}/{bobs}").json == unknown.json
    assert unknown.status_code == 404


def test_commits_come_newest_first_in_pages_that_fit_together(api: Api) -> None:
    shas = [api.post(f"{SPEC}num_replicas: {count}\n").json["commit"] for count in range(1, 6)]
    api.record(cases=tuple(judged(api, sha, Verdict.APPLIED) for sha in shas))
    found: list[str] = []
    cursor = ""
    while True:
        page = api.get(f"{COMMITS}?limit=2{cursor}")
        found += [item["sha"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == shas[::-1]


@pytest.mark.parametrize("cursor", ["x", "bm8", "LTE", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA"])
def test_a_cursor_that_is_none_of_ours_is_400(api: Api, cursor: str) -> None:
    assert api.call("GET", f"{COMMITS}?cursor={cursor}").status_code == 400


def test_the_beginning_of_a_sha_is_enough_where_it_is_one_commits_alone(api: Api) -> None:
    sha = api.post().json["commit"]
    assert api.get(f"{COMMITS}/{sha[:7]}")["sha"] == sha
    case = judged(api, sha, Verdict.APPLIED)
    other = sha[:8] + ("1" if sha[8] == "0" else "0") * 32  # a commit that a rewritten branch has lost
    api.record(cases=(case, replace(case, commit=replace(case.commit, sha=other))))
    assert api.call("GET", f"{COMMITS}/{sha[:7]}").status_code == 409
    assert api.get(f"{COMMITS}/{sha[:9]}")["sha"] == sha
    assert api.get(f"{COMMITS}/{other}")["sha"] == other


@pytest.mark.parametrize("sha", ["abc", "HEAD", "main", "x" * 40, "a" * 41, "ABCDEF0", "%00" * 7])
def test_what_is_no_sha_is_400(api: Api, sha: str) -> None:
    assert api.call("GET", f"{COMMITS}/{sha}", "admin").status_code == 400


def test_a_commit_without_spec_files_is_no_change_and_for_the_admin_alone(api: Api) -> None:
    sha = api.push({"README.md": "hello"})
    shown = api.get(f"{COMMITS}/{sha}", "admin")
    assert (shown["state"], shown["verdict"], shown["files"]) == ("closed", "NO_CHANGE", [])
    assert api.call("GET", f"{COMMITS}/{sha}").status_code == 404
    assert api.get(COMMITS, "admin")["items"] == []


def test_history_from_before_argus_counts_as_superseded_by_what_came_next(api: Api) -> None:
    old, new, gone = (api.push({"users/alice/a.yaml": text}) for text in (SPEC, SPEC + "# 2\n", None))
    api.record()
    shown = api.get(f"{COMMITS}/{old}")
    assert (shown["verdict"], shown["files"][0]["superseded_by"]) == ("SUPERSEDED", new)
    assert api.get(f"{COMMITS}/{gone}")["verdict"] == "REMOVED"


def test_a_commit_newer_than_the_last_pass_is_never_judged_by_what_follows_it(api: Api) -> None:
    api.push({"README.md": "x"})
    api.record()
    old = api.push({"users/alice/a.yaml": SPEC})
    api.push({"users/alice/a.yaml": SPEC + "# 2\n"})
    assert api.get(f"{COMMITS}/{old}")["state"] == "open"


def test_a_removal_from_before_argus_is_open_while_the_model_still_drains(api: Api) -> None:
    api.push({"users/alice/a.yaml": SPEC})
    gone = api.push({"users/alice/a.yaml": None})
    [past] = api.parts.store.past(gone)
    [(change, _)] = past.changes
    api.record(Record(change.identity, "b" * 40, change.commit, State.DELETING, NOON))
    assert api.get(f"{COMMITS}/{gone}")["state"] == "open"


def test_waiting_ends_with_the_verdict(api: Api) -> None:
    sha = api.post().json["commit"]
    case = judged(api, sha, Verdict.APPLIED)
    api.token("alice")
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(api.get(f"{COMMITS}/{sha}?wait=30")))
    waiting.start()
    assert not answers
    api.record(cases=(case,))
    waiting.join(timeout=25)
    assert answers[0]["verdict"] == "APPLIED"


def test_waiting_in_vain_ends_with_what_is_known(api: Api) -> None:
    sha = api.post().json["commit"]
    assert api.get(f"{COMMITS}/{sha}?wait=1")["state"] == "open"


@pytest.mark.parametrize("wait", ["-1", "31", "soon"])
def test_nobody_waits_for_longer_than_is_offered(api: Api, wait: str) -> None:
    assert api.call("GET", f"{COMMITS}/{'0' * 40}?wait={wait}").status_code == 400


def test_those_who_wait_leave_threads_for_the_others(api: Api) -> None:
    """Eight threads, four of which may wait: the fifth who would like to is answered at once."""
    sha = api.post().json["commit"]
    case = judged(api, sha, Verdict.APPLIED)
    waiters = api.app.extensions["argus-waiters"]
    for _ in range(4):
        assert waiters.acquire(blocking=False)
    assert api.get(f"{COMMITS}/{sha}?wait=30")["state"] == "open"
    waiters.release()
    api.record(cases=(case,))
    assert api.get(f"{COMMITS}/{sha}?wait=30")["state"] == "closed"
    assert api.call("GET", MODELS).status_code == 200
