"""The routing table and the answers that follow from it: pure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.answers import Answer, Forward, decide
from reconciler.core.routes import Name, Replica, RoutingTable, Unavailable, routing_table
from reconciler.core.wire import INFERENCE

LOADING = Unavailable("model_loading", "is still loading", 10)
CHAT = "/v1/chat/completions"


def name(model_id: str = "alice-qwen", key: str = "svc-a", **commits: str) -> Name:
    return Name(model_id, key, "alice", 1_767_702_600, commits, LOADING)


def replica(of: str = "svc-a", number: int = 1, version: str = "v1") -> Replica:
    return Replica(f"{of}-r{number}", of, version, f"127.0.0.1:{9000 + number}")


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def refusal(answer: Answer | Forward) -> tuple[int, str | None]:
    assert isinstance(answer, Answer)
    assert set(answer.body["error"]) == {"message", "type", "param", "code"}
    assert answer.body["error"]["type"] == ("server_error" if answer.status >= 500 else "invalid_request_error")
    return answer.status, answer.body["error"]["code"]


UP = routing_table("secret", [name(v1="c1"), name("bob-e5", "svc-b")], [replica(), replica(number=2)])

texts = st.text(max_size=8)
tables = st.builds(
    routing_table,
    texts,
    st.lists(
        st.builds(
            Name,
            model_id=texts,
            model_key=st.sampled_from(["svc-a", "svc-b", "svc-c"]),
            owner=texts,
            created=st.integers(0, 2**40),
            commits=st.dictionaries(st.sampled_from(["v1", "v2"]), texts),
            unavailable=st.builds(Unavailable, texts, texts, st.integers(0, 600)),
        ),
        max_size=4,
        unique_by=lambda name: name.model_id,
    ),
    st.lists(
        st.builds(Replica, texts, st.sampled_from(["svc-a", "svc-b", "svc-x"]), st.sampled_from(["v1", "v2"]), texts),
        max_size=5,
    ),
)


@given(tables)
def test_a_table_survives_being_written_down(table: RoutingTable) -> None:
    assert RoutingTable.from_json(table.to_json()) == table


@given(st.text(max_size=40) | st.sampled_from(['{"secret": "x"}', '{"secret": "x", "routes": [{}]}', "[]", "null"]))
def test_anything_else_is_not_a_table(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        RoutingTable.from_json(text)


def test_a_replica_answers_under_its_models_name_with_its_versions_commit() -> None:
    names = [name(v1="c1", v2="c2")]
    table = routing_table("s", names, [replica(number=2, version="v2"), replica(number=1), replica("svc-unknown")])
    (route,) = table.routes
    assert [(target.name, target.commit) for target in route.targets] == [("svc-a-r1", "c1"), ("svc-a-r2", "c2")]


def test_equal_facts_in_any_order_give_equal_tables() -> None:
    names, replicas = [name(), name("bob-e5", "svc-b")], [replica(), replica(number=2)]
    assert routing_table("s", names, replicas) == routing_table("s", names[::-1], replicas[::-1])


def test_a_request_goes_to_the_model_that_it_names() -> None:
    for path in INFERENCE:
        decided = decide(UP, "POST", path, body(messages=[], model="alice-qwen"))
        assert isinstance(decided, Forward)
        assert decided.route.model_key == "svc-a"


def test_without_a_name_it_goes_to_the_only_model_there_is() -> None:
    alone = routing_table("s", [name()], [replica()])
    assert isinstance(decide(alone, "POST", CHAT, body(messages=[])), Forward)
    assert refusal(decide(UP, "POST", CHAT, body(messages=[]))) == (400, "model_required")
    assert refusal(decide(routing_table("s", [], []), "POST", CHAT, body())) == (400, "model_required")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b'{"model": ', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"\xff\xfe\x00", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'"alice-qwen"', 400, "invalid_json"),
        (b'{"model": 3}', 400, "invalid_model"),
        (b'{"model": ["alice-qwen"]}', 400, "invalid_model"),
        (b'{"model": "nobody"}', 404, "model_not_found"),
        (b'{"model": ""}', 404, "model_not_found"),
        (b'{"model": "bob-e5"}', 503, "model_loading"),
    ],
)
def test_what_names_no_model_that_answers_is_refused(content: bytes, status: int, code: str) -> None:
    assert refusal(decide(UP, "POST", CHAT, content)) == (status, code)


def test_who_is_to_come_back_is_told_when() -> None:
    answer = decide(UP, "POST", CHAT, body(model="bob-e5"))
    assert isinstance(answer, Answer)
    assert answer.headers == {"Retry-After": "10"}
    assert answer.body["error"]["message"] == "the model `bob-e5` is still loading"


def test_models_that_answer_are_listed() -> None:
    answer = decide(UP, "GET", "/v1/models", b"")
    card = {"id": "alice-qwen", "object": "model", "created": 1_767_702_600, "owned_by": "alice"}
    assert answer == Answer(200, {"object": "list", "data": [card]})
    assert decide(UP, "GET", "/v1/models/alice-qwen", b"") == Answer(200, card)
    assert refusal(decide(UP, "GET", "/v1/models/bob-e5", b"")) == (503, "model_loading")
    assert refusal(decide(UP, "GET", "/v1/models/nobody", b"")) == (404, "model_not_found")


def test_before_anything_is_known_everything_is_starting() -> None:
    assert refusal(decide(None, "GET", "/v1/models", b"")) == (503, "starting")
    assert refusal(decide(None, "GET", "/v1/models/alice-qwen", b"")) == (503, "starting")
    assert refusal(decide(None, "POST", CHAT, body(model="alice-qwen"))) == (503, "starting")


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/pause", "/update_weights", "/invocations", "/v1/load_lora_adapter", "/docs", "/v1/chat"],
)
def test_nothing_else_is_there(path: str) -> None:
    for method in ("GET", "POST"):
        assert refusal(decide(UP, method, path, body(model="alice-qwen"))) == (404, "not_found")


def test_a_wrong_method_is_told_the_right_one() -> None:
    answer = decide(UP, "GET", CHAT, b"")
    assert refusal(answer) == (405, "method_not_allowed")
    assert isinstance(answer, Answer)
    assert answer.headers == {"Allow": "POST"}
    assert refusal(decide(UP, "POST", "/v1/models", b"{}")) == (405, "method_not_allowed")


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE"]), st.sampled_from([*INFERENCE, "/v1/models"]), st.binary())
def test_no_body_brings_it_down(method: str, path: str, content: bytes) -> None:
    assert isinstance(decide(UP, method, path, content), Answer | Forward)
