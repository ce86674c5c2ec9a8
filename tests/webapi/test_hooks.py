"""Webhooks as git hosts send them: who is believed, what it starts, and what those cost who are not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from reconciler.settings import HookSettings
from tests.webapi.client import HOOK_SECRET, Answer, Api
from webapi import hooks
from webapi.hooks import Allowance
from webapi.nudging import Nudger
from webapi.parts import keep
from webapi.proofs import TOLERANCE_S, Proof

HOOK = "/api/v2/hooks/git"
PUSH = json.dumps({"ref": "refs/heads/main", "after": "1" * 40}).encode()


def hexed(body: bytes, secret: str = HOOK_SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def github(body: bytes, event: str = "push", secret: str = HOOK_SECRET) -> dict[str, str]:
    return {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={hexed(body, secret)}"}


def standard(body: bytes, key: bytes, at: float | None = None) -> dict[str, str]:
    moment = str(int(time.time() if at is None else at))
    digest = hmac.new(key, f"msg_1.{moment}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1a,AAAA v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": moment, "webhook-signature": signature}


def deliver(api: Api, headers: dict[str, str], body: bytes = PUSH, **more: Any) -> Answer:
    more.setdefault("content_type", "application/json")
    return api.call("POST", HOOK, None, headers=headers, data=body, **more)


def with_secrets(api: Api, **settings: Any) -> None:
    """Have webhooks set up otherwise."""
    api_settings = api.parts.settings.api.model_copy(update={"hooks": HookSettings(**settings)})
    parts = replace(api.parts, settings=api.parts.settings.model_copy(update={"api": api_settings}))
    keep(api.app, parts)
    hooks.install(api.app, parts)


@pytest.mark.parametrize(
    "headers",
    [
        lambda: github(PUSH),
        lambda: {"X-Gitea-Event": "push", "X-Gitea-Signature": hexed(PUSH)},
        lambda: {"X-Forgejo-Event": "push", "X-Forgejo-Signature": hexed(PUSH)},
        lambda: {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": HOOK_SECRET},
        # Signed as the test runs: a signature is good for five minutes, and tests are collected long before.
        lambda: {"X-Gitlab-Event": "Push Hook", **standard(PUSH, HOOK_SECRET.encode())},
        lambda: {"X-Hub-Signature-256": hexed(PUSH).upper()},
    ],
    ids=["github", "gitea", "forgejo", "gitlab", "gitlab signed", "plain"],
)
def test_a_push_told_by_any_host_asks_for_a_pass_at_once(api: Api, headers: Callable[[], dict[str, str]]) -> None:
    before = api.parts.ledger.nudges()
    answer = deliver(api, headers())
    assert (answer.status_code, answer.json) == (202, {"status": "taken"})
    assert api.parts.ledger.nudges() == before + 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (github(b"{}", "ping"), b"{}", "pong"),
        (github(PUSH.replace(b"main", b"topic")), PUSH.replace(b"main", b"topic"), "ignored"),
        (github(PUSH.replace(b"heads", b"tags")), PUSH.replace(b"heads", b"tags"), "ignored"),
    ],
)
def test_what_is_no_news_of_the_branch_starts_nothing(
    api: Api, headers: dict[str, str], body: bytes, status: str
) -> None:
    before = api.parts.ledger.nudges()
    answer = deliver(api, headers, body)
    assert (answer.status_code, answer.json) == (202, {"status": status})
    assert api.parts.ledger.nudges() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"ref": 5}',
        b'{"ref": {"ref": []}}',
        b'{"ref": "main"}',
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"ref": "refs/heads/topic"}' + b" " * 1_100_000,
    ],
)
def test_a_proved_delivery_that_is_not_understood_is_news(api: Api, body: bytes) -> None:
    assert deliver(api, github(body), body).json == {"status": "taken"}


def test_a_form_is_read_as_github_sends_it(api: Api) -> None:
    body = b"payload=%7B%22ref%22%3A%22refs%2Fheads%2Ftopic%22%7D"
    answer = deliver(api, github(body), body, content_type="application/x-www-form-urlencoded")
    assert answer.json == {"status": "ignored"}


def _unproved() -> dict[str, dict[str, str]]:
    """Give what proves nothing, by what is wrong with it. Made when it is sent: times in it go stale."""
    good = standard(PUSH, HOOK_SECRET.encode())
    return {
        "nothing": {},
        "another body": github(PUSH + b" "),
        "another secret": github(PUSH, secret="another-secret-of-somebody"),
        "a short digest": {"X-Hub-Signature-256": "sha256=" + "0" * 63},
        "sha1": {"X-Hub-Signature": "sha1=" + hmac.new(HOOK_SECRET.encode(), PUSH, "sha1").hexdigest()},
        "another token": {"X-Gitlab-Token": HOOK_SECRET + "x"},
        "no ASCII": {"X-Gitlab-Token": "é" * 20},
        "a bearer": {"Authorization": f"Bearer {HOOK_SECRET}"},
        "too old": standard(PUSH, HOOK_SECRET.encode(), at=time.time() - TOLERANCE_S - 5),
        "too new": standard(PUSH, HOOK_SECRET.encode(), at=time.time() + TOLERANCE_S + 60),
        "another id": {**good, "webhook-id": "msg_2"},
        "no time": {**good, "webhook-timestamp": "soon"},
        "no signature": {**good, "webhook-signature": "v1,%%%"},
    }


@pytest.mark.parametrize("what", list(_unproved()))
def test_who_proves_no_secret_is_told_nothing_and_starts_nothing(api: Api, what: str) -> None:
    before = api.parts.ledger.nudges()
    answer = deliver(api, _unproved()[what])
    assert answer.status_code == 401
    assert answer.json["error"]["details"] == {}
    assert HOOK_SECRET not in answer.text
    assert api.parts.ledger.nudges() == before


def test_a_secret_is_replaced_without_a_gap(api: Api) -> None:
    new = "whsec_" + base64.b64encode(b"k" * 32).decode()
    file = api.folder / "hook-secret"
    file.write_text(f"{HOOK_SECRET}\n{new}\n")
    assert deliver(api, github(PUSH)).status_code == 202
    assert deliver(api, github(PUSH, secret=new)).status_code == 202
    assert deliver(api, standard(PUSH, b"k" * 32)).status_code == 202, "the key is what stands behind whsec_"
    file.write_text(new)
    assert deliver(api, github(PUSH)).status_code == 401
    assert deliver(api, github(PUSH, secret=new)).status_code == 202


def test_without_a_secret_there_are_no_webhooks(api: Api) -> None:
    with_secrets(api)
    answer = deliver(api, github(PUSH))
    assert answer.status_code == 404
    assert "api.hooks.secret_files" in answer.json["error"]["message"]


@pytest.mark.parametrize("text", ["", "short", "a b c d e f g h i j", "x" * 2000])
def test_a_secret_that_cannot_be_one_opens_nothing(api: Api, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (api.folder / "hook-secret").write_text(text)
    with caplog.at_level("WARNING", logger="webapi.hooks"):  # an engine's libraries set the root logger's level
        answer = deliver(api, {"X-Gitlab-Token": text or "x"})
    assert answer.status_code == 503
    assert "16 to 1024" in caplog.text
    (api.folder / "hook-secret").unlink()
    assert deliver(api, github(PUSH)).status_code == 503


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_not_read_to_its_end(api: Api, chunked: bool) -> None:
    with_secrets(api, secret_files=("hook-secret",), max_body_bytes=100_000)
    body = b" " * 100_001
    more = {"wsgi.input": BytesIO(body), "wsgi.input_terminated": True, "CONTENT_LENGTH": ""} if chunked else {}
    answer = deliver(api, github(body), body, environ_overrides=more)
    assert answer.status_code == 413
    longest = body[:-1]
    more = {**more, "wsgi.input": BytesIO(longest)} if chunked else {}
    assert deliver(api, github(longest), longest, environ_overrides=more).status_code == 202


def test_who_fails_too_often_is_refused_unread_for_a_while(api: Api) -> None:
    for _ in range(hooks.FAILURES):
        assert deliver(api, {"X-Gitlab-Token": "wrong"}).status_code == 401
    answers = {deliver(api, {"X-Gitlab-Token": "wrong"}).status_code for _ in range(20)}
    assert 429 in answers
    assert answers <= {401, 429}


def test_failures_are_forgotten_with_time() -> None:
    now = [0.0]
    allowance = Allowance(2, 0.5, clock=lambda: now[0])
    for _ in range(3):
        allowance.use()
    assert allowance.is_used_up()
    now[0] += 2
    assert not allowance.is_used_up()
    allowance.use()
    assert allowance.is_used_up()


def test_a_client_that_drips_its_body_is_cut_off(api: Api) -> None:
    api.app.extensions["argus-hooks"] = replace(api.app.extensions["argus-hooks"], read_limit_s=0.1)
    here, there = socket.socketpair()
    with here, there, here.makefile("rb") as body, ThreadPoolExecutor(1) as pool:
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.02):
                there.send(b" ")

        dripping = pool.submit(drip)
        given = {"gunicorn.socket": here, "wsgi.input": body, "CONTENT_LENGTH": "1000000"}
        answer = deliver(api, github(PUSH), b"", environ_overrides=given)
        stop.set()
        dripping.result()
    assert answer.status_code == 408


def test_few_bodies_are_read_at_a_time(api: Api) -> None:
    desk = api.app.extensions["argus-hooks"]
    while desk.readers.acquire(blocking=False):
        pass
    answer = deliver(api, github(PUSH))
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    desk.readers.release()
    for _ in range(3):
        assert deliver(api, github(PUSH)).status_code == 202, "each gives its place back"


def test_an_answer_does_not_wait_for_a_ledger_that_is_busy(api: Api) -> None:
    with api.parts.ledger._engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        answer = deliver(api, github(PUSH))
        connection.exec_driver_sql("ROLLBACK")
    assert (answer.status_code, answer.json) == (202, {"status": "taken"})
    deadline = time.monotonic() + 10
    while api.parts.ledger.nudges() == 0:
        assert time.monotonic() < deadline, "the nudge was lost"
        time.sleep(0.01)


def test_neither_body_nor_secret_nor_signature_is_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = b'{"ref": "refs/heads/main", "private": "nobody-may-see-this"}'
    deliver(api, {**github(body), "X-Gitlab-Token": HOOK_SECRET}, body)
    deliver(api, github(body + b" "), body)
    for text in ("nobody-may-see-this", HOOK_SECRET, hexed(body)):
        assert text not in caplog.text


def test_whoever_asks_has_a_nudge_that_began_afterwards_and_many_share_one() -> None:
    began, go_on = threading.Semaphore(0), threading.Semaphore(0)
    count = [0]

    def nudge() -> None:
        count[0] += 1
        began.release()
        assert go_on.acquire(timeout=10)

    nudger = Nudger(nudge)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(nudger.ask, 10)
        assert began.acquire(timeout=10)
        others = [pool.submit(nudger.ask, 10) for _ in range(8)]
        while nudger._asked < 9:
            time.sleep(0.001)
        go_on.release(2)
        assert first.result()
        assert all(each.result() for each in others)
    assert count[0] == 2
    assert not nudger.ask(0), "it is still to come"
    go_on.release()


@given(st.binary(max_size=300), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=40))
def test_a_signature_holds_for_its_body_and_secret_alone(body: bytes, secret: str) -> None:
    def holds(headers: dict[str, str], body: bytes, *secrets: str) -> bool:
        proof = Proof(Headers(headers), secrets, time.time())
        proof.update(body[:7])
        proof.update(body[7:])
        return proof.is_offered and proof.holds()

    for headers in (github(body, secret=secret), standard(body, secret.encode())):
        assert holds(headers, body, "somebody-elses-secret", secret)
        assert not holds(headers, body, "somebody-elses-secret")
        assert not holds(headers, body)
        assert not holds(headers, body + b"x", secret)
