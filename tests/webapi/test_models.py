"""Writing models over HTTP: what lands in git, what is answered, and what is refused."""

from __future__ import annotations

import io
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from reconciler.errors import LedgerUnreachable, SourceUnreachable
from reconciler.ports import PlatformStatus
from tests.webapi.client import MODELS, SPEC, Answer, Api

COMMENTED = """\
# my first model
model_id: hello          # the suffix
model_source: '$HOME/common/hf/demo'

num_replicas:   1        # grows at night
engine_kwargs:
    # room for long prompts
    max_model_len: 4096  # tokens
"""


def test_a_post_is_one_commit_of_the_exact_text_by_its_user(api: Api) -> None:
    answer = api.post(COMMENTED)
    assert answer.status_code == 202
    assert answer.json["state"] == "QUEUED"
    assert answer.json["commit"] == api.head()
    assert re.fullmatch(r"svc-alice-\d{8}-\d{6}-[0-9a-f]{4}", answer.json["model_key"])
    assert api.content("users/alice/hello.yaml") == COMMENTED
    assert api.log() == ["alice|Argus|Create hello"]


def test_the_same_suffix_again_is_an_update_that_keeps_key_and_id(api: Api) -> None:
    key = api.created()
    before = api.get(f"{MODELS}/{key}")["model"]
    answer = api.post(SPEC + "num_replicas: 2\n")
    assert (answer.status_code, answer.json["model_key"]) == (202, key)
    after = api.get(f"{MODELS}/{key}")["model"]
    assert after["num_replicas"] == 2
    assert (after["model_id"], after["created_at"]) == (before["model_id"], before["created_at"])
    assert api.log() == ["alice|Argus|Update hello", "alice|Argus|Create hello"]


def test_a_body_that_changes_nothing_makes_no_commit_and_answers_what_is_there(api: Api) -> None:
    first = api.post().json
    again = api.post()
    assert (again.status_code, again.json) == (202, first)
    assert len(api.log()) == 1


def test_two_users_may_use_the_same_suffix(api: Api) -> None:
    assert api.created(who="alice") != api.created(who="bob")
    assert [item["user_id"] for item in api.get(MODELS, "bob")["items"]] == ["bob"]


def test_json_is_accepted_and_kept_as_it_was_sent(api: Api) -> None:
    body = json.dumps({"model_id": "hello", "model_source": "/private/hf/demo"}, indent="\t")
    answer = api.post(body, content_type="application/json; charset=utf-8")
    assert answer.status_code == 202
    assert api.content("users/alice/hello.yaml") == body


@pytest.mark.parametrize("name", ["application/yaml", "application/x-yaml", "text/yaml", "Text/YAML; charset=UTF-8"])
def test_every_name_of_yaml_is_accepted(api: Api, name: str) -> None:
    assert api.post(content_type=name).status_code == 202


@pytest.mark.parametrize("name", ["text/plain", "application/yaml; charset=utf-16", "multipart/form-data", ""])
def test_other_types_and_encodings_are_415(api: Api, name: str) -> None:
    answer = api.post(content_type=name)
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("where", [{"query_string": ""}, {"data": SPEC}])
def test_if_none_match_makes_it_create_only(api: Api, where: dict[str, str]) -> None:
    first = api.call("POST", MODELS, data=SPEC, content_type="text/yaml", headers={"If-None-Match": "*"})
    assert first.status_code == 202
    other = SPEC + "num_replicas: 2\n"
    again = api.call("POST", MODELS, data=other, content_type="text/yaml", headers={"If-None-Match": "*"})
    assert (again.status_code, again.json["error"]["code"]) == (409, "conflict")
    assert api.content("users/alice/hello.yaml") == SPEC


@pytest.mark.parametrize(
    ("spec", "status", "code", "field"),
    [
        ("model_id: [\n", 400, "invalid_spec", None),
        ("model_id: a\nmodel_id: b\n", 400, "invalid_spec", "model_id"),
        ("model_id: &a b\n", 400, "invalid_spec", "model_id"),
        ("", 400, "invalid_spec", None),
        ("model_id: hello\n", 400, "invalid_spec", "model_source"),
        (SPEC + "replicas: 2\n", 400, "invalid_spec", "replicas"),
        (SPEC + "num_replicas: true\n", 400, "invalid_spec", "num_replicas"),
        (SPEC + "num_replicas: 1.5\n", 400, "invalid_spec", "num_replicas"),
        (SPEC + "engine_kwargs: {trust_remote_code: true}\n", 400, "invalid_spec", "engine_kwargs.trust_remote_code"),
        (SPEC.replace("hello", "../x"), 400, "invalid_spec", "model_id"),
        ("model_id: a\nmodel_source: /private/users/bob/m\n", 403, "forbidden", "model_source"),
        ("model_id: a\nmodel_source: /etc/passwd\n", 403, "forbidden", "model_source"),
        ("model_id: a\nmodel_source: $HOME/../bob/m\n", 403, "forbidden", "model_source"),
        (SPEC + "num_replicas: 0\n", 422, "unprocessable", "num_replicas"),
        (SPEC + "gpus_per_replica: 5\n", 422, "unprocessable", "gpus_per_replica"),
    ],
)
def test_a_spec_that_is_not_acceptable_is_refused_with_its_field(
    api: Api, spec: str, status: int, code: str, field: str | None
) -> None:
    answer = api.post(spec)
    error = answer.json["error"]
    assert (answer.status_code, error["code"], error["details"].get("field")) == (status, code, field)
    assert not (api.folder / "specs.git" / "refs" / "heads" / "main").exists()


def test_a_link_out_of_the_owners_folders_is_403_at_once(api: Api) -> None:
    private = api.folder / "private"
    (private / "users" / "bob" / "secret").mkdir(parents=True)
    (private / "users" / "alice" / "mine").symlink_to(private / "users" / "bob")
    answer = api.post("model_id: a\nmodel_source: $HOME/mine/secret\n")
    assert (answer.status_code, answer.json["error"]["details"]["field"]) == (403, "model_source")
    assert str(api.folder) not in answer.text


@pytest.mark.parametrize("source", ["$HOME/not-there-yet", "$HOME/common/hf/empty", "org/name"])
def test_a_folder_that_is_missing_or_empty_is_accepted_for_now(api: Api, source: str) -> None:
    (api.folder / "private" / "hf" / "empty").mkdir()
    assert api.post(f"model_id: a\nmodel_source: {source}\n").status_code == 202


def test_a_link_within_the_owners_folders_is_accepted(api: Api) -> None:
    (api.folder / "private" / "users" / "alice" / "mine").symlink_to(api.folder / "private" / "hf" / "demo")
    assert api.post("model_id: a\nmodel_source: $HOME/mine\n").status_code == 202


def test_a_body_that_is_called_json_and_is_none_is_400(api: Api) -> None:
    for body in (SPEC, '{"model_id": "a", "model_id": "b"}', "[" * 5000, '{"num_replicas": NaN}', b"\xff"):
        answer = api.post(body, content_type="application/json")
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request"), body


def test_a_body_beyond_the_limit_is_413(api: Api) -> None:
    answer = api.post(SPEC + "#" * 100_000)
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "body_too_large")


def test_a_chunked_body_beyond_the_limit_is_413_and_not_cut(api: Api) -> None:
    def stream(body: str) -> Answer:
        terminated = {"wsgi.input_terminated": True}  # as gunicorn has it
        body_of_unknown_length = io.BytesIO(body.encode())
        return api.call(
            "POST",
            MODELS,
            input_stream=body_of_unknown_length,
            content_type="text/yaml",
            environ_overrides=terminated,
        )

    assert stream(SPEC + "#" * 100_000).status_code == 413
    assert api.call("GET", MODELS).json["items"] == []
    assert stream(SPEC).status_code == 202


# --- for others -----------------------------------------------------------------------------------------------------


def test_the_admin_writes_for_a_user_who_is_named(api: Api) -> None:
    api.token("alice")
    assert api.post(who="admin").status_code == 403
    assert api.post(who="admin", query="?user_id=ghost").status_code == 404
    answer = api.post(who="admin", query="?user_id=alice")
    assert answer.status_code == 202
    assert api.log() == ["admin|Argus|Create hello"]
    assert api.get(MODELS)["items"][0]["user_id"] == "alice"


def test_nobody_else_writes_for_others(api: Api) -> None:
    api.token("bob")
    assert api.post(query="?user_id=bob").status_code == 403
    assert api.post(query="?user_id=alice").status_code == 202


def test_anothers_model_does_not_exist(api: Api) -> None:
    key = api.created(who="bob")
    unknown = api.call("GET", f"{MODELS}/svc-alice-20260106-123000-abcd")
    for method, body in (("GET", None), ("PATCH", {"num_replicas": 2}), ("DELETE", None)):
        answer = api.call(method, f"{MODELS}/{key}", "alice", json=body)
        assert (answer.status_code, answer.json) == (404, unknown.json)
    assert len(api.log()) == 1


@pytest.mark.parametrize("key", ["%00", "svc-%00", "svc-%ED%A0%80", "..", "svc-" + "x" * 5000, "svc-%0A"])
def test_what_cannot_be_a_key_is_404(api: Api, key: str) -> None:
    assert api.call("GET", f"{MODELS}/{key}").status_code == 404


# --- PATCH ----------------------------------------------------------------------------------------------------------


def test_scaling_changes_one_number_and_nothing_else(api: Api) -> None:
    key = api.created(COMMENTED)
    answer = api.patch(key, {"num_replicas": 2})
    assert (answer.status_code, answer.json) == (200, {"model_key": key, "state": "QUEUED", "commit": api.head()})
    expected = COMMENTED.replace("num_replicas:   1 ", "num_replicas:   2 ")
    assert api.content("users/alice/hello.yaml") == expected
    assert api.log()[0] == "alice|Argus|Scale hello to 2 replicas"


def test_engine_arguments_are_merged_and_null_removes(api: Api) -> None:
    key = api.created(COMMENTED)
    assert (
        api.patch(key, {"engine_kwargs": {"max_num_seqs": 8, "dtype": "auto"}, "gpus_per_replica": 2}).status_code
        == 200
    )
    assert api.patch(key, {"engine_kwargs": {"max_model_len": None}}).status_code == 200
    resolved = api.get(f"{MODELS}/{key}")["resolved_spec_yaml"]
    assert "max_num_seqs: 8\n  dtype: auto" in resolved
    assert "max_model_len" not in resolved
    assert "# tokens" in api.content("users/alice/hello.yaml")
    assert api.log()[:2] == ["alice|Argus|Update hello"] * 2


@pytest.mark.parametrize(
    "patch", [{"num_replicas": 1}, {"gpus_per_replica": 1}, {"engine_kwargs": {}}, {"engine_kwargs": {"seed": None}}]
)
def test_a_patch_that_changes_nothing_makes_no_commit(api: Api, patch: dict[str, object]) -> None:
    key = api.created(COMMENTED)
    answer = api.patch(key, patch)
    assert (answer.status_code, answer.json["commit"]) == (200, api.head())
    assert len(api.log()) == 1


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ({}, 400),
        ([], 400),
        ("num_replicas", 400),
        ({"model_id": "other"}, 400),
        ({"num_replicas": "2"}, 400),
        ({"num_replicas": True}, 400),
        ({"num_replicas": 1.5}, 400),
        ({"num_replicas": None}, 400),
        ({"engine_kwargs": []}, 400),
        ({"engine_kwargs": {"trust_remote_code": True}}, 400),
        ({"engine_kwargs": {"seed": "\ud800"}}, 400),
        ({"engine_kwargs": {"seed": "x" * 5000}}, 400),
        ({"num_replicas": 0}, 422),
        ({"num_replicas": -1}, 422),
        ({"num_replicas": 9}, 422),
        ({"gpus_per_replica": 0}, 422),
    ],
)
def test_a_patch_to_something_unacceptable_is_refused(api: Api, patch: object, status: int) -> None:
    key = api.created(COMMENTED)
    answer = api.patch(key, patch)
    assert answer.status_code == status, answer.json
    assert api.content("users/alice/hello.yaml") == COMMENTED


def test_a_patch_is_json_and_nothing_else(api: Api) -> None:
    key = api.created()
    answer = api.call("PATCH", f"{MODELS}/{key}", data="num_replicas: 2", content_type="application/yaml")
    assert answer.status_code == 415


def test_a_patch_can_mend_a_file_that_was_pushed_broken(api: Api) -> None:
    api.push({"users/alice/hello.yaml": SPEC + "num_replicas: 0  # off\n"})
    [item] = api.get(MODELS)["items"]
    assert (item["state"], item["num_replicas"]) == ("FAILED", None)
    assert api.patch(item["model_key"], {"num_replicas": 2}).status_code == 200
    assert api.content("users/alice/hello.yaml") == SPEC + "num_replicas: 2  # off\n"
    assert api.get(MODELS)["items"][0]["state"] == "QUEUED"


def test_a_patch_of_a_file_that_cannot_be_read_says_what_is_wrong_with_the_file(api: Api) -> None:
    api.push({"users/alice/hello.yaml": "model_id: [\n"})
    [item] = api.get(MODELS)["items"]
    answer = api.patch(item["model_key"], {"num_replicas": 2})
    assert answer.status_code == 400
    assert "in git" in answer.json["error"]["message"]


def test_a_file_in_an_unknown_form_is_409_and_stays(api: Api) -> None:
    spec = "? model_id\n: hello\n? model_source\n: $HOME/common/hf/demo\n? num_replicas\n: 1\n"
    key = api.created(spec)
    answer = api.patch(key, {"engine_kwargs": {"seed": 1}})
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")
    assert api.content("users/alice/hello.yaml") == spec


# --- DELETE ---------------------------------------------------------------------------------------------------------


def test_a_delete_takes_the_file_away_and_a_new_post_makes_another_model(api: Api) -> None:
    key = api.created()
    answer = api.call("DELETE", f"{MODELS}/{key}")
    assert (answer.status_code, answer.json) == (200, {"model_key": key, "state": "DELETING", "commit": api.head()})
    assert api.log()[0] == "alice|Argus|Delete hello"
    assert api.call("DELETE", f"{MODELS}/{key}").status_code == 404
    assert api.patch(key, {"num_replicas": 2}).status_code == 404
    assert api.created() != key
    assert api.call("DELETE", f"{MODELS}/{key}").status_code == 404
    assert len(api.get(MODELS)["items"]) == 1


# --- others at the same time, and things that do not answer ---------------------------------------------------------


def test_eight_clients_at_once_all_land(api: Api) -> None:
    api.token("alice")
    specs = [SPEC.replace("hello", f"m{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(api.post, specs))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json["model_key"] for answer in answers}) == 8
    assert len(api.log()) == 8


def test_eight_clients_with_one_suffix_make_one_model_and_a_commit_for_each_text(api: Api) -> None:
    api.token("alice")
    specs = [SPEC + f"num_replicas: {number}\n" for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(api.post, specs))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json["model_key"] for answer in answers}) == 1
    assert sorted(api.log()) == ["alice|Argus|Create hello"] + ["alice|Argus|Update hello"] * 7


def test_of_eight_create_only_requests_exactly_one_creates(api: Api) -> None:
    api.token("alice")
    specs = [SPEC + f"num_replicas: {number}\n" for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda spec: api.post(spec, headers={"If-None-Match": "*"}), specs))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7


def test_each_change_nudges_the_reconciler_and_a_no_change_does_not(api: Api) -> None:
    before = api.parts.ledger.nudges()
    key = api.created()
    api.post()
    api.patch(key, {"num_replicas": 2})
    api.call("DELETE", f"{MODELS}/{key}")
    assert api.parts.ledger.nudges() == before + 3


class _DeafLedger:
    def nudge(self) -> None:
        raise LedgerUnreachable("the ledger does not answer")


def test_a_nudge_that_fails_does_not_fail_the_request(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)  # an engine's import may have raised the root logger's
    object.__setattr__(api.parts, "ledger", _DeafLedger())
    assert api.post().status_code == 202
    assert "nudged" in caplog.text


class _LostRepository:
    def __getattr__(self, name: str) -> object:
        raise SourceUnreachable("ssh://secret@host does not answer")


def test_a_repository_that_does_not_answer_is_503_and_to_be_tried_again(api: Api) -> None:
    object.__setattr__(api.parts, "store", _LostRepository())
    for answer in (api.post(), api.call("GET", MODELS)):
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "source_unreachable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "secret" not in answer.text


# --- how updates go, and what can never fit ---------------------------------------------------------------------------


def test_a_patch_changes_how_the_next_update_goes_and_null_takes_that_back(api: Api) -> None:
    key = api.created(COMMENTED)
    assert api.patch(key, {"update_strategy": "recreate"}).status_code == 200
    assert api.content("users/alice/hello.yaml") == COMMENTED + "update_strategy: recreate\n"
    assert "\nupdate_strategy: recreate\n" in api.get(f"{MODELS}/{key}")["resolved_spec_yaml"]
    assert api.patch(key, {"update_strategy": None}).status_code == 200
    assert api.content("users/alice/hello.yaml") == COMMENTED
    assert "\nupdate_strategy: auto\n" in api.get(f"{MODELS}/{key}")["resolved_spec_yaml"]


@pytest.mark.parametrize("strategy", ["rolling", "", 1, ["auto"]])
def test_an_update_strategy_that_nobody_knows_is_400(api: Api, strategy: object) -> None:
    key = api.created()
    assert api.patch(key, {"update_strategy": strategy}).status_code == 400
    assert api.post(SPEC + f"update_strategy: {json.dumps(strategy)}\n").status_code == 400


def _saw(api: Api, total_gpus: float) -> None:
    api.record(status=PlatformStatus(datetime.now(UTC), None, "RUNNING", "", total_gpus, 0, None))


def test_a_model_too_big_for_the_whole_cluster_is_refused_at_once_with_the_number(api: Api) -> None:
    key = api.created()
    _saw(api, 4)
    head = api.head()
    for answer in (
        api.post(SPEC.replace("hello", "big") + "num_replicas: 2\ngpus_per_replica: 3\n"),
        api.patch(key, {"num_replicas": 2, "gpus_per_replica": 3}),
    ):
        assert answer.status_code == 422
        assert answer.json["error"]["code"] == "unprocessable"
        assert "needs 6 GPUs (2 x 3), and the whole cluster has 4" in answer.json["error"]["message"]
        assert answer.json["error"]["details"] == {"field": "num_replicas"}
    assert api.head() == head
    assert api.patch(key, {"num_replicas": 4}).status_code == 200


def test_what_would_fit_is_accepted_while_nobody_knows_how_large_the_cluster_is(api: Api) -> None:
    assert api.post(SPEC + "num_replicas: 8\n").status_code == 202
    _saw(api, 0)
    assert api.post(SPEC.replace("hello", "again") + "num_replicas: 8\n").status_code == 202


def test_a_model_that_was_accepted_may_be_changed_after_the_cluster_has_become_too_small(api: Api) -> None:
    key = api.created(SPEC + "num_replicas: 4\n")
    _saw(api, 2)
    assert api.patch(key, {"engine_kwargs": {"seed": 1}}).status_code == 200
    assert api.patch(key, {"num_replicas": 3}).status_code == 200
    assert api.patch(key, {"num_replicas": 4}).status_code == 422
