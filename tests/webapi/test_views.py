"""What users see is git joined with the ledger: tables of both sides, and the answers over HTTP."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.core.entities import (
    Commit,
    Deployment,
    Event,
    EventType,
    Health,
    Identity,
    Record,
    SpecFile,
    State,
    Waiting,
)
from reconciler.ports import PlatformStatus
from reconciler.spec import Limits, Problem, ServingSpec, SpecRejected, parse
from tests.webapi.client import MODELS, SPEC, Api
from webapi import views
from webapi.views import Model

NOON = datetime(2026, 1, 6, 12, 0, tzinfo=UTC)
OLD = Commit("a" * 40, "alice", NOON, "api", "Create hello")
NEW = Commit("b" * 40, "carol", NOON + timedelta(minutes=5), "git", "by hand")
WHO = Identity(
    "svc-alice-20260106-120000-abcd", "alice-202601061200-hello", "alice", "hello", "users/alice/hello.yaml", NOON
)
FILE = SpecFile(WHO, "1" * 40, "100644", OLD)
NEWER_FILE = replace(FILE, blob="2" * 40, commit=NEW)
REJECTED = SpecRejected(Problem.INVALID, "model_source is missing")


def _spec(replicas: int = 1) -> ServingSpec:
    spec = parse(f"{SPEC}num_replicas: {replicas}\ngpus_per_replica: 2\n".encode(), owner="alice", limits=Limits())
    assert isinstance(spec, ServingSpec)
    return spec


UP = Deployment(WHO.model_key, "v1", Health.HEALTHY, target_replicas=1, running=1, starting=0, stopping=0, message="")
RECORD = Record(
    WHO,
    FILE.blob,
    OLD,
    State.RUNNING,
    NOON + timedelta(minutes=1),
    spec=_spec(),
    serving_commit=OLD,
    deployment=UP,
)


def _shown(model: Model) -> dict[str, Any]:
    return views.serving_model(model, "http://host:8000/v1", NOON + timedelta(seconds=31)).model_dump(mode="json")


def test_a_model_has_every_field_of_the_reference() -> None:
    assert _shown(Model(FILE, RECORD)) == {
        "model_key": WHO.model_key,
        "user_id": "alice",
        "model_id": "alice-202601061200-hello",
        "model_id_suffix": "hello",
        "model_id_prefix": "alice-202601061200",
        "model_source": "/private/hf/demo",
        "num_replicas": 1,
        "gpus_per_replica": 2,
        "total_gpus": 2,
        "state": "RUNNING",
        "endpoint": {"openai_base_url": "http://host:8000/v1", "model": "alice-202601061200-hello"},
        "error_summary": None,
        "created_at": "2026-01-06T12:00:00Z",
        "updated_at": "2026-01-06T12:01:00Z",
        "commit": OLD.sha,
        "serving_commit": OLD.sha,
        "progress": None,
        "blob": FILE.blob,
        "held": None,
    }


LOADING = replace(UP, health=Health.STARTING, running=0, starting=1, phase="warming_up")
NOT_WAITING = {"position": None, "needs_gpus": None, "free_gpus": None}


def test_a_model_that_loads_shows_its_phase_the_seconds_so_far_and_how_long_it_took_before() -> None:
    record = replace(RECORD, state=State.DEPLOYING, deployment=LOADING, since=NOON, load_estimate_s=45)
    assert _shown(Model(FILE, record))["progress"] == {
        "phase": "warming_up",
        "since": "2026-01-06T12:00:00Z",
        "elapsed_s": 31,
        "estimated_s": 45,
        **NOT_WAITING,
    }
    assert _shown(Model(NEWER_FILE, record, _spec(3)))["progress"] is None, "that is of the older commit"


def test_a_model_that_waits_shows_its_place_in_line_and_the_numbers() -> None:
    waits = Waiting(needs_gpus=4, free_gpus=1, position=2)
    record = replace(RECORD, state=State.QUEUED, deployment=None, since=NOON, waiting=waits)
    shown = _shown(Model(FILE, record))["progress"]
    assert (shown["phase"], shown["position"], shown["needs_gpus"], shown["free_gpus"]) == ("waiting", 2, 4, 1)
    assert (shown["elapsed_s"], shown["estimated_s"]) == (31, None)


def test_an_update_that_waits_shows_so_while_the_model_runs() -> None:
    record = replace(RECORD, waiting=Waiting(needs_gpus=2, free_gpus=0, position=1))
    shown = _shown(Model(FILE, record))
    assert (shown["state"], shown["progress"]["phase"], shown["progress"]["position"]) == ("RUNNING", "waiting", 1)


def test_a_file_that_no_pass_has_seen_is_queued_with_what_it_says() -> None:
    shown = _shown(Model(FILE, None, _spec(3)))
    assert (shown["state"], shown["num_replicas"], shown["total_gpus"]) == ("QUEUED", 3, 6)
    assert (shown["commit"], shown["serving_commit"], shown["updated_at"]) == (OLD.sha, None, "2026-01-06T12:00:00Z")


def test_no_commit_answers_while_no_replica_runs() -> None:
    assert _shown(Model(FILE, replace(RECORD, deployment=replace(UP, running=0))))["serving_commit"] is None
    assert _shown(Model(FILE, replace(RECORD, deployment=None)))["serving_commit"] is None


def test_a_newer_commit_is_queued_while_the_older_one_answers() -> None:
    shown = _shown(Model(NEWER_FILE, RECORD, _spec(3)))
    assert (shown["state"], shown["num_replicas"], shown["error_summary"]) == ("QUEUED", 3, None)
    assert (shown["commit"], shown["serving_commit"], shown["updated_at"]) == (NEW.sha, OLD.sha, "2026-01-06T12:05:00Z")


def test_a_newer_commit_that_is_refused_leaves_the_model_as_it_is_and_says_why() -> None:
    shown = _shown(Model(NEWER_FILE, RECORD, REJECTED))
    assert (shown["state"], shown["num_replicas"], shown["commit"]) == ("RUNNING", 1, NEW.sha)
    assert shown["error_summary"] == "model_source is missing"


@pytest.mark.parametrize("record", [None, replace(RECORD, spec=None, state=State.FAILED, rejection=REJECTED)])
def test_a_spec_that_never_was_valid_is_failed_and_has_no_numbers(record: Record | None) -> None:
    shown = _shown(Model(NEWER_FILE, record, REJECTED))
    assert (shown["state"], shown["error_summary"]) == ("FAILED", "model_source is missing")
    assert {shown[name] for name in ("model_source", "num_replicas", "gpus_per_replica", "total_gpus")} == {None}


@pytest.mark.parametrize("state", [state for state in State if state is not State.DELETED])
def test_a_file_that_is_gone_is_deleting_until_the_reconciler_says_deleted(state: State) -> None:
    assert _shown(Model(None, replace(RECORD, state=state)))["state"] == "DELETING"
    assert _shown(Model(None, replace(RECORD, state=State.DELETED)))["state"] == "DELETED"


def test_a_file_that_came_back_is_queued_whatever_the_ledger_remembers() -> None:
    assert _shown(Model(FILE, replace(RECORD, state=State.DELETED), _spec()))["state"] == "QUEUED"


# --- over HTTP --------------------------------------------------------------------------------------------------------


def _record(api: Api, key: str, state: State, **changes: Any) -> Record:
    file = api.parts.store.read().files[key]
    base = Record(file.identity, file.blob, file.commit, state, file.commit.committed_at, spec=_spec())
    return replace(base, **changes)


def _event(record: Record, kind: EventType, **payload: Any) -> Event:
    identity, commit = record.identity, record.commit
    return Event(kind, identity.model_key, identity.user_id, NOON, commit.sha, commit.author, commit.source, payload)


def _status(**changes: Any) -> PlatformStatus:
    return replace(PlatformStatus(NOON, "c" * 40, "RUNNING", "", 4, 3, None), **changes)


def test_a_detail_has_the_resolved_spec_the_events_in_order_and_the_deployment(api: Api) -> None:
    key = api.created()
    deployment = Deployment(key, "v1", Health.HEALTHY, 1, 1, 0, 0, "")
    record = _record(api, key, State.RUNNING, deployment=deployment)
    events = (_event(record, EventType.DEPLOY_REQUESTED), _event(record, EventType.DEPLOY_SUCCEEDED, replicas=1))
    api.record(record, events=events, status=_status())
    detail = api.get(f"{MODELS}/{key}")
    assert detail["model"]["state"] == "RUNNING"
    assert detail["resolved_spec_yaml"].startswith("model_id: hello\nmodel_source: /private/hf/demo\n")
    assert [event["event_type"] for event in detail["events"]] == ["DEPLOY_REQUESTED", "DEPLOY_SUCCEEDED"]
    assert detail["events"][1] == {
        "event_type": "DEPLOY_SUCCEEDED",
        "created_at": "2026-01-06T12:00:00Z",
        "commit": record.commit.sha,
        "author": "alice",
        "source": "api",
        "payload": {"replicas": 1},
    }
    assert detail["serve_status"] == {
        "app_name": "argus_llm_app",
        "app_status": "RUNNING",
        "deployment": {
            "health": "healthy",
            "target_replicas": 1,
            "running": 1,
            "starting": 0,
            "stopping": 0,
            "message": "",
        },
    }


def test_a_detail_shows_the_newest_events_only(api: Api) -> None:
    key = api.created()
    record = _record(api, key, State.RUNNING)
    api.record(record, events=tuple(_event(record, EventType.RECOVERED, number=n) for n in range(205)))
    events = api.get(f"{MODELS}/{key}")["events"]
    assert [event["payload"]["number"] for event in events] == list(range(5, 205))


def test_a_new_model_has_a_detail_before_any_pass(api: Api) -> None:
    detail = api.get(f"{MODELS}/{api.created()}")
    assert detail["model"]["state"] == "QUEUED"
    assert detail["events"] == []
    assert detail["serve_status"] == {"app_name": "argus_llm_app", "app_status": None, "deployment": None}


def test_a_deleted_model_is_history_with_its_events_and_in_no_list(api: Api) -> None:
    key = api.created()
    record = _record(api, key, State.RUNNING)
    api.record(record)
    api.call("DELETE", f"{MODELS}/{key}")
    assert [item["state"] for item in api.get(MODELS)["items"]] == ["DELETING"]
    api.record(replace(record, state=State.DELETED), events=(_event(record, EventType.DELETED),))
    assert api.get(MODELS)["items"] == []
    detail = api.get(f"{MODELS}/{key}")
    assert (detail["model"]["state"], detail["events"][0]["event_type"]) == ("DELETED", "DELETED")
    assert api.patch(key, {"num_replicas": 2}).status_code == 404
    assert api.call("DELETE", f"{MODELS}/{key}").status_code == 404


def test_a_pushed_file_is_seen_at_once(api: Api) -> None:
    sha = api.push({"users/alice/hello.yaml": SPEC})
    [item] = api.get(MODELS)["items"]
    assert (item["state"], item["commit"]) == ("QUEUED", sha)


def test_a_pushed_link_is_no_spec(api: Api) -> None:
    api.push({"users/alice/other.yaml": SPEC})
    (api.folder / "clone" / "users" / "alice" / "hello.yaml").symlink_to("other.yaml")
    api.push({})
    states = {item["model_id_suffix"]: (item["state"], item["error_summary"]) for item in api.get(MODELS)["items"]}
    assert states["hello"][0] == "FAILED"
    assert "plain file" in states["hello"][1]


# --- lists ------------------------------------------------------------------------------------------------------------


def _walk(api: Api, query: str, who: str = "alice") -> list[str]:
    """Read all pages of a list and give the models' suffixes."""
    found, cursor = [], ""
    for _ in range(20):
        page = api.get(f"{MODELS}?{query}{cursor}", who)
        found += [item["model_id_suffix"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
    raise AssertionError("the pages do not end")


def test_pages_give_every_model_once_in_a_stable_order(api: Api) -> None:
    api.push({f"users/alice/m{n}.yaml": SPEC.replace("hello", f"m{n}") for n in range(7)})
    whole = _walk(api, "limit=200")
    assert sorted(whole) == [f"m{n}" for n in range(7)]
    assert _walk(api, "limit=2") == _walk(api, "limit=7") == whole


def test_a_model_that_goes_between_two_pages_moves_no_other(api: Api) -> None:
    api.push({f"users/alice/m{n}.yaml": SPEC.replace("hello", f"m{n}") for n in range(4)})
    whole = _walk(api, "")
    first = api.get(f"{MODELS}?limit=2")
    api.push({f"users/alice/{whole[1]}.yaml": None})
    second = api.get(f"{MODELS}?limit=2&cursor={first['next_cursor']}")
    assert [item["model_id_suffix"] for item in second["items"]] == whole[2:]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=", "cursor=!", "cursor=YQ=", "cursor=_w", "all=maybe", "unknown=1"],
)
def test_a_bad_page_is_400(api: Api, query: str) -> None:
    answer = api.call("GET", f"{MODELS}?{query}")
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")


def test_everybodys_models_are_the_admins_to_see(api: Api) -> None:
    for who in ("alice", "bob"):
        api.created(who=who)
    assert api.call("GET", f"{MODELS}?all=true").status_code == 403
    assert api.call("GET", f"{MODELS}?user_id=bob").status_code == 403
    assert len(api.get(f"{MODELS}?user_id=alice")["items"]) == 1
    assert [item["user_id"] for item in api.get(f"{MODELS}?user_id=bob", "admin")["items"]] == ["bob"]
    assert len(api.get(f"{MODELS}?all=true", "admin")["items"]) == 2
    assert api.get(MODELS, "admin")["items"] == []


# --- the platform -----------------------------------------------------------------------------------------------------


def test_the_status_is_the_admins(api: Api) -> None:
    assert api.call("GET", "/api/v2/serve/status").status_code == 403
    fresh = api.get("/api/v2/serve/status", "admin")
    assert (fresh["app"]["status"], fresh["gpus"], fresh["reconciler"]["last_pass_at"]) == (None, None, None)
    assert fresh["revision"] == {"head": None, "last_seen": None, "fetched_at": None, "error": None}


def test_the_status_counts_models_and_says_how_the_loop_is_doing(api: Api) -> None:
    api.created()
    key = api.created(SPEC.replace("hello", "other"))
    api.record(
        _record(api, key, State.RUNNING),
        status=_status(
            error="Serve does not answer",
            app_status=None,
            notes_error="the remote refuses notes",
            drift="the application's root was changed",
        ),
    )
    seen = api.get("/api/v2/serve/status", "admin")
    assert seen["app"] == {"name": "argus_llm_app", "status": None, "message": ""}
    assert seen["gpus"] == {"total": 4, "free": 3}
    assert (seen["revision"]["head"], seen["revision"]["last_seen"]) == (api.head(), "c" * 40)
    assert seen["models"] == {"QUEUED": 1, "DEPLOYING": 0, "RUNNING": 1, "FAILED": 0, "DELETING": 0}
    assert seen["reconciler"] == {
        "last_pass_at": "2026-01-06T12:00:00Z",
        "error": "Serve does not answer",
        "notes_error": "the remote refuses notes",
        "drift": "the application's root was changed",
    }


def test_the_status_answers_while_the_repository_does_not(api: Api) -> None:
    key = api.created()
    api.record(_record(api, key, State.RUNNING), status=_status(error="the spec repository cannot be read"))
    shutil.rmtree(api.folder / "specs.git")
    seen = api.get("/api/v2/serve/status", "admin")
    assert seen["revision"]["head"] is None
    assert "git" in seen["revision"]["error"]
    assert seen["models"]["RUNNING"] == 1
    assert seen["reconciler"]["error"] == "the spec repository cannot be read"
