"""Conditional requests: change only what was seen."""

from __future__ import annotations

import pytest

from tests.webapi.client import MODELS, SPEC, Api, git
from webapi.conditions import matching
from webapi.problems import Invalid, PreconditionFailed

BLOB = "8c1f0a5f3b0f4a1d9d0e6a7b5c4d3e2f1a0b9c8d"
FILE = "users/alice/hello.yaml"


@pytest.mark.parametrize(
    "header",
    ["*", " * ", f'"{BLOB}"', f'"other", "{BLOB}"', f'"other","{BLOB}" , "x"', f', "{BLOB}",', f'W/"{BLOB}", "{BLOB}"'],
)
def test_a_condition_that_holds(header: str) -> None:
    check = matching(header)
    assert check is not None
    check(BLOB)


@pytest.mark.parametrize(
    "header", ['"other"', f'W/"{BLOB}"', '""', "", ",", f'"{BLOB[:12]}"', f'"{BLOB.upper()}"', '"a,b"']
)
def test_a_condition_that_does_not_hold_names_what_is_there(header: str) -> None:
    check = matching(header)
    assert check is not None
    with pytest.raises(PreconditionFailed) as caught:
        check(BLOB)
    assert caught.value.details == {"current": BLOB}
    assert caught.value.headers == {"ETag": f'"{BLOB}"'}


@pytest.mark.parametrize("header", ["*", f'"{BLOB}"'])
def test_no_condition_holds_of_what_is_not_there(header: str) -> None:
    check = matching(header)
    assert check is not None
    with pytest.raises(PreconditionFailed) as caught:
        check(None)
    assert (caught.value.details, caught.value.headers) == ({"current": None}, {})


@pytest.mark.parametrize("header", [BLOB, '"open', 'w/"x"', '"a" "b"', '*, "a"', '"a b"', "x" * 9000, '"\x7f"'])
def test_what_are_no_tags_is_refused(header: str) -> None:
    with pytest.raises(Invalid):
        matching(header)


def test_without_the_header_there_is_no_condition() -> None:
    assert matching(None) is None


def etag(api: Api, key: str) -> str:
    answer = api.call("GET", f"{MODELS}/{key}")
    found = answer.headers["ETag"]
    assert found == f'"{git(api.folder / "specs.git", "rev-parse", f"main:{FILE}")}"'
    assert answer.json["model"]["blob"] == found.strip('"')
    return found


def test_a_detail_has_the_files_blob_for_its_tag_and_a_list_has_it_too(api: Api) -> None:
    key = api.created()
    tag = etag(api, key)
    assert [item["blob"] for item in api.get(MODELS)["items"]] == [tag.strip('"')]


def test_every_write_that_is_accepted_answers_with_the_new_tag(api: Api) -> None:
    created = api.post()
    key = created.json["model_key"]
    assert created.headers["ETag"] == etag(api, key)
    patched = api.patch(key, {"num_replicas": 2})
    assert patched.headers["ETag"] == etag(api, key) != created.headers["ETag"]
    assert api.patch(key, {"num_replicas": 2}).headers["ETag"] == patched.headers["ETag"], "nothing to do"
    assert "ETag" not in api.call("DELETE", f"{MODELS}/{key}").headers


def test_a_change_of_what_was_seen_is_made_and_of_what_has_changed_is_not(api: Api) -> None:
    key = api.created()
    seen = etag(api, key)
    api.push({FILE: f"{SPEC}num_replicas: 3\n"})
    head, now = api.head(), etag(api, key)
    answers = [
        api.call("PATCH", f"{MODELS}/{key}", json={"num_replicas": 2}, headers={"If-Match": seen}),
        api.call("DELETE", f"{MODELS}/{key}", headers={"If-Match": seen}),
        api.post(SPEC, headers={"If-Match": seen}),
    ]
    for answer in answers:
        assert answer.status_code == 412
        assert answer.json["error"]["code"] == "precondition_failed"
        assert answer.json["error"]["details"] == {"current": now.strip('"')}
        assert answer.headers["ETag"] == now
    assert api.head() == head
    assert api.call("PATCH", f"{MODELS}/{key}", json={"num_replicas": 2}, headers={"If-Match": now}).status_code == 200
    assert api.post(SPEC, headers={"If-Match": f"{seen}, {etag(api, key)}"}).status_code == 202
    assert api.call("DELETE", f"{MODELS}/{key}", headers={"If-Match": "*"}).status_code == 200


def test_if_match_creates_nothing(api: Api) -> None:
    for header in ("*", f'"{BLOB}"'):
        answer = api.post(SPEC, headers={"If-Match": header})
        assert (answer.status_code, answer.json["error"]["details"]) == (412, {"current": None})
    assert api.call("GET", MODELS).json["items"] == []


def test_a_model_that_is_not_there_is_404_whatever_the_condition(api: Api) -> None:
    for method, body in (("PATCH", {"num_replicas": 2}), ("DELETE", None)):
        answer = api.call(method, f"{MODELS}/svc-alice-20260106-123000-abcd", json=body, headers={"If-Match": '"x"'})
        assert answer.status_code == 404


def test_a_header_that_is_none_is_400(api: Api) -> None:
    key = api.created()
    assert api.call("DELETE", f"{MODELS}/{key}", headers={"If-Match": "blob"}).status_code == 400
    assert api.call("GET", f"{MODELS}/{key}").status_code == 200


def test_if_none_match_goes_on_as_it_was(api: Api) -> None:
    assert api.post(SPEC, headers={"If-None-Match": "*"}).status_code == 202
    assert api.post(SPEC, headers={"If-None-Match": "*"}).status_code == 409
