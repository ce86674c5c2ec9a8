"""Who may do what, users and tokens, and what every error looks like."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from tests.webapi.client import ADMIN_TOKEN, MODELS, SPEC, Api
from webapi.app import create_app

USERS = "/api/v2/users"


def _rules(app: Flask) -> list[tuple[str, str]]:
    """Give every method and address of the API, with made-up parameters."""
    return [
        (
            method,
            rule.rule.replace("<user_id>", "alice")
            .replace("<token_id>", "x")
            .replace("<model_key>", "y")
            .replace("<sha>", "0" * 7),
        )
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD"})
    ]


def test_every_address_but_a_few_asks_for_a_token(api: Api) -> None:
    open_to_all = {path for method, path in _rules(api.app) if api.call(method, path, None).status_code != 401}
    # A webhook proves a secret of its own (test_hooks).
    rest = {"/api/v2/healthz", "/api/v2/readyz", "/api/v2/hooks/git"}
    assert open_to_all == {"/", "/docs", "/docs/assets/<path:filename>", "/openapi.json"} | rest


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ADMIN_TOKEN}",
        ADMIN_TOKEN,
        f"Bearer {ADMIN_TOKEN}x",
        "Bearer \xff",
        "Bearer argus_1_2",
    ],
)
def test_a_missing_or_wrong_token_is_401_in_the_one_form(api: Api, header: str) -> None:
    answer = api.call("GET", MODELS, None, headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_scheme_may_be_written_in_any_case(api: Api) -> None:
    assert api.call("GET", MODELS, None, headers={"Authorization": f"bearer {ADMIN_TOKEN}"}).status_code == 200


def test_the_token_is_checked_before_the_body_is_looked_at(api: Api) -> None:
    assert api.post("x" * 200_000, None, content_type="text/plain").status_code == 401
    assert api.call("POST", USERS, "alice", data="{", content_type="text/plain").status_code == 403


def test_identity_headers_mean_nothing(api: Api) -> None:
    api.created(who="bob")
    headers = {"X-User-Id": "bob", "X-Forwarded-User": "bob", "X-Remote-User": "admin"}
    assert api.call("GET", MODELS, "alice", headers=headers).json["items"] == []


def test_expired_and_revoked_tokens_are_401(api: Api) -> None:
    now = datetime.now(UTC)
    api.parts.accounts.create_user("alice", now)
    old = api.parts.accounts.issue_token("alice", now - timedelta(days=2), timedelta(days=1))
    new = api.parts.accounts.issue_token("alice", now, timedelta(days=1))
    for token, status in ((old.token, 401), (new.token, 200)):
        assert api.call("GET", MODELS, None, headers={"Authorization": f"Bearer {token}"}).status_code == status
    assert api.call("DELETE", f"{USERS}/alice/tokens/{new.token_id}", "admin").status_code == 204
    assert api.call("GET", MODELS, None, headers={"Authorization": f"Bearer {new.token}"}).status_code == 401


# --- users and tokens -------------------------------------------------------------------------------------------------


def test_a_user_is_a_folder_in_git_and_can_be_given_a_token(api: Api) -> None:
    answer = api.call("POST", USERS, "admin", json={"user_id": "dora"})
    assert (answer.status_code, answer.json["user_id"]) == (201, "dora")
    assert api.content("users/dora/.gitkeep") == ""
    assert api.log() == ["admin|Argus|Create user dora"]
    issued = api.call("POST", f"{USERS}/dora/tokens", "admin")
    assert issued.status_code == 201
    assert set(issued.json) == {"token", "token_id", "expires_at"}
    header = {"Authorization": f"Bearer {issued.json['token']}"}
    posted = api.call("POST", MODELS, None, data=SPEC, content_type="application/yaml", headers=header)
    assert posted.status_code == 202
    assert api.log()[0] == "dora|Argus|Create hello"


def test_a_user_whom_only_git_knows_is_a_user(api: Api) -> None:
    api.push({"users/erik/hello.yaml": SPEC})
    assert api.call("POST", USERS, "admin", json={"user_id": "erik"}).status_code == 409
    assert api.get(USERS, "admin")["items"] == [{"user_id": "erik", "created_at": None}]
    assert api.call("GET", f"{USERS}/erik/tokens", "admin").status_code == 200
    assert api.call("POST", f"{USERS}/erik/tokens", "admin").status_code == 201
    assert api.post(SPEC.replace("hello", "b"), "admin", "?user_id=erik").status_code == 202


def test_a_user_exists_once(api: Api) -> None:
    assert api.call("POST", USERS, "admin", json={"user_id": "dora"}).status_code == 201
    api.parts.accounts.create_user("ledger-only", datetime.now(UTC))
    for taken in ("dora", "ledger-only", "admin"):
        answer = api.call("POST", USERS, "admin", json={"user_id": taken})
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")
    assert len(api.log()) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"user_id": 1},
        {"user_id": ""},
        {"user_id": "A"},
        {"user_id": "../x"},
        {"user_id": "a-202601010000"},
        {"user_id": "a\n"},
        {"user_id": "a", "admin": True},
        {"user_id": "a" * 41},
        {"user_id": "a..b"},
    ],
)
def test_a_user_id_that_breaks_the_rule_is_400(api: Api, body: object) -> None:
    answer = api.call("POST", USERS, "admin", json=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")


def test_users_of_ledger_and_git_are_listed_page_by_page(api: Api) -> None:
    for user in ("a", "c", "e", "g"):
        api.parts.accounts.create_user(user, datetime.now(UTC))
    api.push({f"users/{user}/.gitkeep": "" for user in ("b", "c", "f", "h")})
    for limit in (1, 2, 3, 200):
        found, cursor = [], ""
        while cursor is not None:
            page = api.get(f"{USERS}?limit={limit}{cursor and '&cursor='}{cursor}", "admin")
            found += [item["user_id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert found == list("abcefgh")


def test_tokens_are_listed_without_their_text_and_page_by_page(api: Api) -> None:
    api.parts.accounts.create_user("dora", datetime.now(UTC))
    issued = [api.call("POST", f"{USERS}/dora/tokens", "admin").json for _ in range(5)]
    api.call("DELETE", f"{USERS}/dora/tokens/{issued[0]['token_id']}", "admin")
    first = api.get(f"{USERS}/dora/tokens?limit=3", "admin")
    second = api.get(f"{USERS}/dora/tokens?limit=3&cursor={first['next_cursor']}", "admin")
    listed = first["items"] + second["items"]
    assert sorted(token["token_id"] for token in listed) == sorted(token["token_id"] for token in issued)
    assert [token["token_id"] for token in listed if token["revoked_at"]] == [issued[0]["token_id"]]
    assert not any(token["token"] in str(listed) for token in issued)
    assert second["next_cursor"] is None


def test_users_and_tokens_that_are_not_there_are_404(api: Api) -> None:
    api.token("alice")
    for method, path in (
        ("POST", "ghost/tokens"),
        ("GET", "ghost/tokens"),
        ("DELETE", "ghost/tokens/x"),
        ("DELETE", "alice/tokens/x"),
        ("DELETE", "alice/tokens/%00"),
        ("DELETE", "%00/tokens/x"),
        ("POST", "..%2Fx/tokens"),
    ):
        assert api.call(method, f"{USERS}/{path}", "admin").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/alice/tokens"), ("POST", "/alice/tokens")]
)
def test_users_and_tokens_are_the_admins(api: Api, method: str, path: str) -> None:
    answer = api.call(method, USERS + path, "alice", json={"user_id": "x"})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden")


# --- errors, logs, the rest -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v2/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "//api/v2/serve/models", 404, "not_found"),
        ("GET", "/docs/assets/../../secret", 404, "not_found"),
        ("PUT", MODELS, 405, "method_not_allowed"),
        ("DELETE", "/api/v2/healthz", 405, "method_not_allowed"),
    ],
)
def test_flasks_own_errors_have_the_one_form(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = api.call(method, path)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert set(answer.json["error"]) == {"code", "message", "details"}
    assert status != 405 or answer.headers["Allow"]


class _Broken:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("the password is swordfish")


def test_an_error_that_nobody_expected_is_500_with_an_id_and_its_details_in_the_log_only(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    object.__setattr__(api.parts, "store", _Broken())
    answer = api.call("GET", MODELS)
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal")
    assert "swordfish" not in answer.text
    assert answer.json["error"]["details"]["error_id"] in caplog.text
    assert "swordfish" in caplog.text


def test_the_log_has_a_line_a_request_without_address_body_or_token(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    key = api.created("# swordfish\n" + SPEC)
    api.call("GET", f"{MODELS}/{key}?swordfish=1")
    api.call("GET", "/swordfish", None, headers={"X-Api": "swordfish"})
    lines = [record.getMessage() for record in caplog.records if record.name == "webapi"]
    assert [line.split()[:3] for line in lines] == [
        ["POST", MODELS, "202"],
        ["GET", f"{MODELS}/<model_key>", "200"],
        ["GET", "-", "404"],
    ]
    assert [line.split()[-1] for line in lines] == ["alice", "alice", "-"]
    for secret in ("swordfish", api.token("alice"), key):
        assert secret not in caplog.text


def test_health_asks_nobody(api: Api) -> None:
    object.__setattr__(api.parts, "store", _Broken())
    object.__setattr__(api.parts, "reader", _Broken())
    answer = api.call("GET", "/api/v2/healthz", None)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_an_app_is_made_from_the_settings_alone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_ADMIN_TOKEN", "another-token")
    app = create_app(api.parts.settings)
    answer = app.test_client().get(USERS, headers={"Authorization": "Bearer another-token"})
    assert answer.status_code == 200
