"""What a change would do, asked of the API: against what the ledger knows, for the caller, and without a trace."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.core.entities import Commit, Deployment, Health, Held, HoldKind, Located, Record, State
from reconciler.core.workload import workload
from reconciler.ports import PlatformStatus
from reconciler.shell.objects import object_id
from reconciler.spec import Limits, ServingSpec, parse
from tests.webapi.client import SPEC, Answer, Api, git
from webapi.plan_schemas import MOST_PLANNED

PLAN = "/api/v2/serve/plan"
NOW = datetime(2026, 1, 6, 12, 30, tzinfo=UTC)
HELLO = "users/alice/hello.yaml"


def plan(api: Api, who: str | None = "alice", **body: Any) -> Answer:
    return api.call("POST", PLAN, who, json=body)


def planned(api: Api, who: str = "alice", **body: Any) -> Any:
    answer = plan(api, who, **body)
    assert answer.status_code == 200, answer.json
    return answer.json


def runs(api: Api, *texts: tuple[str, str], gpus: float = 8, error: str | None = None) -> dict[str, str]:
    """Have these specs (owner, text) pushed, applied and running, in a cluster; gives keys by suffix."""
    api.push({f"users/{owner}/{suffix_of(text)}.yaml": text for owner, text in texts})
    records = []
    for file in api.parts.store.read().files.values():
        who = file.identity
        spec = parse(api.content(who.path).encode(), owner=who.user_id, limits=Limits(), suffix=who.suffix)
        assert isinstance(spec, ServingSpec)
        up = workload(spec, who, Located(spec.model_source), api.parts.settings.platform)
        records.append(
            Record(
                identity=who,
                blob=file.blob,
                commit=file.commit,
                state=State.RUNNING,
                updated_at=NOW,
                spec=spec,
                applied=up,
                applied_commit=file.commit,
                serving=up,
                serving_commit=file.commit,
                deployment=Deployment(
                    model_key=who.model_key,
                    version=up.version,
                    health=Health.HEALTHY,
                    target_replicas=up.num_replicas,
                    running=up.num_replicas,
                    starting=0,
                    stopping=0,
                    message="",
                ),
            )
        )
    used = sum(each.applied.total_gpus for each in records if each.applied)
    status = PlatformStatus(NOW, api.head(), "RUNNING", "", gpus, gpus - used, error)
    api.record(*records, status=status)
    return {each.identity.suffix: each.identity.model_key for each in records}


def suffix_of(text: str) -> str:
    return text.partition("model_id: ")[2].partition("\n")[0]


def spec(suffix: str = "hello", replicas: int = 1, gpus: int = 1, more: str = "") -> str:
    return (
        f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\n"
        f"num_replicas: {replicas}\ngpus_per_replica: {gpus}\n{more}"
    )


@pytest.fixture(autouse=True)
def a_folder_that_can_be_served(api: Api) -> None:
    demo = api.parts.settings.private_root / "hf" / "demo"
    (demo / "config.json").write_text("{}")
    (demo / "model.safetensors").write_bytes(b"\x00")


def test_a_new_spec_is_created_and_its_name_is_left_to_the_merge(api: Api) -> None:
    runs(api, ("bob", spec("other")))
    answer = planned(api, spec=SPEC)
    (change,) = answer["changes"]
    assert (change["effect"], change["path"]) == ("create", HELLO)
    assert (change["model_key"], change["model_id"]) == (None, None)
    assert change["gpus"] == {"before": 0, "after": 1}
    assert answer["gpus"] == {"before": 1, "after": 2, "total": 8}
    assert answer["base"] == api.head()


def test_scaling_and_a_remark_restart_nothing_and_an_argument_rolls_without_downtime_where_there_is_room(
    api: Api,
) -> None:
    keys = runs(api, ("alice", spec()), ("alice", spec("calm")))
    scaled = planned(api, files={HELLO: spec(replicas=2)})["changes"]
    assert [(each["effect"], each["model_key"], each["downtime"]) for each in scaled] == [
        ("scale", keys["hello"], None)
    ]
    assert scaled[0]["fields"] == {"num_replicas": {"from": 1, "to": 2}}
    assert [each["effect"] for each in planned(api, files={HELLO: "# remark\n" + spec()})["changes"]] == ["update"]
    rolled = planned(api, files={HELLO: spec(more="engine_kwargs: {seed: 7}\n")})
    assert [(each["effect"], each["downtime"]) for each in rolled["changes"]] == [("roll", False)]
    assert rolled["untouched"] == {"count": 1, "paths": ["users/alice/calm.yaml"]}


def test_a_roll_in_a_full_cluster_says_that_it_is_down_meanwhile(api: Api) -> None:
    runs(api, ("alice", spec(replicas=2)), gpus=2)
    (change,) = planned(api, files={HELLO: spec(replicas=2, more="engine_kwargs: {seed: 7}\n")})["changes"]
    assert (change["effect"], change["downtime"]) == ("roll", True)


def test_what_does_not_fit_waits_and_says_what_it_needs(api: Api) -> None:
    runs(api, ("bob", spec("big", replicas=3)), gpus=4)
    (change,) = planned(api, spec=spec(gpus=2))["changes"]
    assert change["effect"] == "wait"
    assert "needs 2 GPUs" in change["message"]
    assert change["gpus"] == {"before": 0, "after": 0}


def test_a_refused_file_names_its_line_and_what_runs_goes_on(api: Api) -> None:
    runs(api, ("alice", spec()))
    (change,) = planned(api, files={HELLO: spec(more="nonsense: 1\n")})["changes"]
    assert (change["effect"], change["line"], change["field"]) == ("reject", 5, "nonsense")
    assert change["replicas"] == {"before": 1, "after": 1}


@pytest.mark.parametrize("mode", ["100755", "120000", "160000"])
def test_what_is_no_plain_file_is_refused_by_its_mode(api: Api, mode: str) -> None:
    (change,) = planned(api, files={HELLO: spec()}, modes={HELLO: mode})["changes"]
    assert change["effect"] == "reject"
    assert mode in change["message"]


def test_no_files_change_nothing(api: Api) -> None:
    runs(api, ("alice", spec()))
    answer = planned(api, files={})
    assert (answer["changes"], answer["untouched"]["count"]) == ([], 1)


def test_a_removed_file_removes_the_model(api: Api) -> None:
    runs(api, ("alice", spec()))
    answer = planned(api, files={HELLO: None})
    assert [each["effect"] for each in answer["changes"]] == ["remove"]
    assert answer["owners"] == [{"user_id": "alice", "before": 1, "after": 0}]


def test_a_folder_that_cannot_be_served_is_told_before_the_merge(api: Api) -> None:
    (change,) = planned(api, spec="model_id: hello\nmodel_source: $HOME/common/hf/absent\n")["changes"]
    assert change["effect"] == "fail"
    assert "/private/hf/absent" in change["message"]


def test_others_are_counted_for_a_user_and_named_for_the_admin(api: Api) -> None:
    runs(api, ("bob", spec("secret")), ("alice", spec()))
    mine = planned(api, files={HELLO: spec(replicas=2)})
    assert mine["others"] == {"changed": 0, "untouched": 1}
    assert [each["user_id"] for each in mine["owners"]] == ["alice"]
    assert "secret" not in str(mine)
    all_of_it = planned(api, "admin", files={HELLO: spec(replicas=2)})
    assert all_of_it["untouched"]["paths"] == ["users/bob/secret.yaml"]
    assert all_of_it["others"] == {"changed": 0, "untouched": 0}


def test_room_that_a_change_makes_starts_nobody_before_it_has_come_back(api: Api) -> None:
    keys = runs(api, ("alice", spec(replicas=4)), ("bob", spec("next", replicas=4)), gpus=4)
    waiting = api.parts.reader.model(keys["next"])
    assert waiting is not None
    api.record(
        Record(
            identity=waiting.identity,
            blob=waiting.blob,
            commit=waiting.commit,
            state=State.QUEUED,
            updated_at=NOW,
            spec=waiting.spec,
            error_summary="waiting for room",
        )
    )
    answer = planned(api, files={HELLO: None})
    assert [each["effect"] for each in answer["changes"]] == ["remove"]
    assert answer["others"] == {"changed": 0, "untouched": 1}
    whole = planned(api, "admin", files={HELLO: None})["changes"]
    assert [(each["effect"], each["touched"]) for each in whole] == [("remove", True)]


@pytest.mark.parametrize("path", ["users/bob/x.yaml", "users/alicea/x.yaml"])
def test_a_user_may_not_plan_for_others(api: Api, path: str) -> None:
    assert plan(api, files={path: spec("x")}).status_code == 403
    assert planned(api, "admin", files={path: spec("x")})["new_users"] == [path.split("/")[1]]


def test_the_admin_has_to_say_whose_spec_it_is(api: Api) -> None:
    assert plan(api, "admin", spec=SPEC).status_code == 403
    api.push({"users/bob/.gitkeep": ""})
    assert planned(api, "admin", spec=SPEC, user_id="bob")["changes"][0]["path"] == "users/bob/hello.yaml"


def test_a_pushed_branch_is_planned_by_its_commit_as_a_merge_would_bring_it(api: Api) -> None:
    runs(api, ("alice", spec()), ("alice", spec("calm")))
    clone = api.folder / "clone"
    git(clone, "checkout", "--quiet", "-b", "topic")
    (clone / HELLO).write_text(spec(replicas=3))
    git(clone, "commit", "--quiet", "--all", "--message", "more")
    git(clone, "push", "--quiet", "origin", "topic")
    head = git(clone, "rev-parse", "HEAD")
    api.push({"users/alice/later.yaml": spec("later")})  # the branch goes on meanwhile; that is not undone
    answer = planned(api, head=head)
    effects = {each["path"]: each["effect"] for each in answer["changes"]}
    assert effects[HELLO] == "scale"
    assert "remove" not in effects.values()
    assert answer["head"] == head


def test_a_commit_that_touches_others_files_is_for_the_admin(api: Api) -> None:
    runs(api, ("alice", spec()))
    clone = api.folder / "clone"
    git(clone, "checkout", "--quiet", "-b", "topic")
    (clone / "README.md").write_text("hello\n")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "more")
    git(clone, "push", "--quiet", "origin", "topic")
    head = git(clone, "rev-parse", "HEAD")
    assert plan(api, head=head).status_code == 403
    assert planned(api, "admin", head=head)["changes"] == []


def test_a_commit_that_nobody_pushed_is_404(api: Api) -> None:
    assert plan(api, head="1" * 40).status_code == 404
    api.push({HELLO: spec()})
    assert plan(api, head="1" * 40).status_code == 404


def test_a_file_that_the_branch_has_changed_meanwhile_is_409_and_names_it(api: Api) -> None:
    runs(api, ("alice", spec()))
    old = object_id("blob", spec().encode())
    assert planned(api, files={HELLO: spec(replicas=2)}, before={HELLO: old})["changes"]
    api.push({HELLO: spec(replicas=3)})
    answer = plan(api, files={HELLO: spec(replicas=2)}, before={HELLO: old})
    assert answer.status_code == 409
    assert answer.json["error"]["details"]["paths"] == [HELLO]
    # Somebody made the very same change: then there is none left to plan.
    assert plan(api, files={HELLO: spec(replicas=3)}, before={HELLO: old}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"spec": SPEC, "files": {HELLO: SPEC}},
        {"files": {"README.md": "x"}},
        {"files": {"users/alice/../bob/x.yaml": "x"}},
        {"files": {HELLO: 1}},
        {"files": {HELLO: SPEC}, "modes": {HELLO: "040000"}},
        {"files": {f"users/alice/m{number}.yaml": None for number in range(MOST_PLANNED + 1)}},
        {"head": "main"},
        {"spec": "a: ["},
        {"spec": SPEC, "unknown": 1},
    ],
)
def test_what_is_no_change_is_400(api: Api, body: dict[str, Any]) -> None:
    answer = api.call("POST", PLAN, json=body)
    assert answer.status_code == 400, answer.json


def test_a_body_beyond_the_limit_is_413(api: Api) -> None:
    assert plan(api, files={HELLO: "#" * 200_000}).status_code == 413


def test_text_that_no_file_can_hold_is_a_rejection_and_no_error(api: Api) -> None:
    body = '{"files": {"users/alice/hello.yaml": "model_id: \\ud800"}}'
    answer = api.call("POST", PLAN, data=body, content_type="application/json")
    assert answer.status_code == 200, answer.json
    assert answer.json["changes"][0]["effect"] == "reject"


def test_without_a_good_pass_the_cluster_is_not_known(api: Api) -> None:
    assert planned(api, spec=spec(replicas=8, gpus=4))["gpus"]["total"] is None
    runs(api, ("alice", spec()), gpus=0, error="Ray does not answer")
    answer = planned(api, files={HELLO: spec(more="engine_kwargs: {seed: 7}\n")})
    assert answer["gpus"]["total"] is None
    assert [(each["effect"], each["downtime"]) for each in answer["changes"]] == [("roll", None)]


def test_planning_leaves_no_trace(api: Api) -> None:
    runs(api, ("alice", spec()))
    before = (api.log(), api.parts.ledger.load(), api.parts.ledger.nudges())
    planned(api, files={HELLO: None})
    planned(api, spec=spec("new"))
    assert (api.log(), api.parts.ledger.load(), api.parts.ledger.nudges()) == before


def test_nobody_plans_without_a_token(api: Api) -> None:
    assert plan(api, None, spec=SPEC).status_code == 401


def test_equal_questions_have_equal_answers(api: Api) -> None:
    runs(api, ("alice", spec()))
    assert planned(api, spec=spec("new")) == planned(api, spec=spec("new"))


def texts(*suffixes: str) -> list[tuple[str, str]]:
    return [("alice", SPEC.replace("hello", suffix)) for suffix in suffixes]


def test_a_plan_that_would_be_braked_says_so_and_what_it_needs(api: Api) -> None:
    runs(api, *texts("a", "b", "c", "d"))
    gone = {f"users/alice/{name}.yaml": None for name in "abc"}
    found = planned(api, files=gone)
    assert {(each["effect"], each["held"]["kind"], each["held"]["then"]) for each in found["changes"]} == {
        ("withhold", "brake", "remove")
    }
    assert "Argus-Allow-Removal: 3" in found["changes"][0]["message"]
    assert (found["gpus"]["before"], found["gpus"]["after"]) == (4, 4)
    few = planned(api, files={"users/alice/a.yaml": None, "users/alice/b.yaml": None})
    assert [(each["effect"], each["held"]) for each in few["changes"]] == [("remove", None)] * 2


def test_a_file_that_a_push_would_bring_back_while_its_removal_is_held_is_the_same_model(api: Api) -> None:
    keys = runs(api, *texts("a", "b", "c"))
    api.push({f"users/alice/{name}.yaml": None for name in "abc"})
    gone = Commit(api.head(), "Carol", NOW, "git")
    held = Held(HoldKind.BRAKE, "why it waits", NOW, gone, removes=True)
    api.record(*[replace(each, held=held) for each in api.parts.reader.models(None).values()])
    back = {f"users/alice/{name}.yaml": text for name, (_, text) in zip("abc", texts("a", "b", "c"), strict=True)}
    found = planned(api, files=back)
    assert found["gpus"]["after"] == found["gpus"]["before"] == 3
    assert {each["effect"] for each in found["changes"]} <= {"update"}
    assert {each["model_key"] for each in found["changes"]} <= set(keys.values())
