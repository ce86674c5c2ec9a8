"""A model's log over HTTP: who may see it, how much of it, in which form, and how following begins and ends."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from reconciler.core.entities import Record, State
from reconciler.shell.ledger import Batch
from tests.webapi.client import MODELS, Api
from webapi import logs

NOON = datetime(2026, 1, 6, 12, 0, 0, 250_000, tzinfo=UTC)
LONG = {"log_follow_s": 60.0}


def say(api: Api, key: str, *lines: str, replica: str = "r1") -> None:
    """Keep lines as the reconciler's collector does."""
    before = api.parts.engine_log.positions().get(f"{key}/{replica}")
    after = str(int(before or 0) + 1)
    api.parts.engine_log.append([Batch(f"{key}/{replica}", key, replica, before, after, lines)], NOON)


def show(api: Api, key: str, query: str = "", who: str | None = "alice", **headers: str) -> Any:
    return api.call("GET", f"{MODELS}/{key}/logs{query}", who, headers=headers)


def followed(api: Api, **settings: float) -> Api:
    """Give the same API with other settings."""
    from webapi.app import assemble

    changed = api.parts.settings.api.model_copy(update=settings)
    parts = replace(api.parts, settings=api.parts.settings.model_copy(update={"api": changed}))
    return replace(api, app=assemble(parts), parts=parts)


def test_lines_say_when_which_replica_and_what(api: Api) -> None:
    key = api.created()
    say(api, key, "Loading weights", "Ready")
    say(api, key, "Killed", replica="r2")
    answer = show(api, key)
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert answer.text == (
        "2026-01-06T12:00:00Z r1 Loading weights\n2026-01-06T12:00:00Z r1 Ready\n2026-01-06T12:00:00Z r2 Killed\n"
    )
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "accept", "is_json"),
    [
        ("", "application/x-ndjson", True),
        ("?format=ndjson", "*/*", True),
        ("?format=text", "application/x-ndjson", False),
        ("", "*/*", False),
        ("", "text/html, application/x-ndjson;q=0.5", True),
        ("", "image/png", False),
    ],
)
def test_the_form_is_the_clients_choice(api: Api, query: str, accept: str, is_json: bool) -> None:
    key = api.created()
    say(api, key, 'a "quoted" line')
    answer = show(api, key, query, Accept=accept)
    if is_json:
        said = {"number": 1, "time": "2026-01-06T12:00:00.250000Z", "replica": "r1", "text": 'a "quoted" line'}
        assert answer.mimetype == "application/x-ndjson"
        assert [json.loads(line) for line in answer.text.splitlines()] == [said]
    else:
        assert answer.text == '2026-01-06T12:00:00Z r1 a "quoted" line\n'


def numbers(answer: Any) -> list[int]:
    return [json.loads(line)["number"] for line in answer.text.splitlines() if line]


def test_the_tail_is_200_lines_or_what_is_asked_for(api: Api) -> None:
    key = api.created()
    say(api, key, *(f"line {n}" for n in range(300)))
    assert numbers(show(api, key, "?format=ndjson")) == list(range(101, 301))
    assert numbers(show(api, key, "?format=ndjson&tail=2")) == [299, 300]
    assert show(api, key, "?tail=0").text == ""
    assert numbers(show(api, key, "?format=ndjson&after=297&tail=2")) == [298, 299]
    for bad in ("?tail=2001", "?tail=-1", "?after=-1", "?follow=maybe", "?format=xml", "?lines=3"):
        assert show(api, key, bad).status_code == 400


def test_only_the_owner_and_the_admin_see_a_log(api: Api) -> None:
    key = api.created()
    say(api, key, "mine")
    assert show(api, key, who="admin").text.endswith("mine\n")
    for query in ("", "?follow=true"):
        absent = show(api, "svc-nobody-20260106-120000-abcd", query)
        others = show(api, key, query, who="bob")
        assert (others.status_code, others.json) == (404, absent.json)
        assert show(api, key, query, who=None).status_code == 401


def test_a_model_that_printed_nothing_has_an_empty_log(api: Api) -> None:
    answer = show(api, api.created())
    assert (answer.status_code, answer.text) == (200, "")


def test_a_model_that_failed_or_is_deleted_still_has_its_log(api: Api) -> None:
    key = api.created()
    say(api, key, "out of memory")
    file = api.parts.store.read().files[key]
    for state in (State.FAILED, State.DELETED):
        api.record(Record(file.identity, file.blob, file.commit, state, file.commit.committed_at))
        assert show(api, key).text.endswith("out of memory\n")


class Following:
    """A client that follows, read in steps by the test."""

    def __init__(self, api: Api, key: str, query: str = "", environ: dict[str, Any] | None = None) -> None:
        headers = {"Authorization": f"Bearer {api.token('alice')}"}
        path = f"{MODELS}/{key}/logs?follow=true&format=ndjson{query}"
        self.answer = api.app.test_client().get(path, headers=headers, environ_overrides=environ or {})
        self.parts = cast("Iterator[bytes]", iter(self.answer.response))

    def next(self) -> list[str]:
        """Give the texts of the next part; [] is a sign of life. Raises StopIteration at the end."""
        part = next(self.parts)
        return [json.loads(line)["text"] for line in part.decode().splitlines() if line]

    def close(self) -> None:
        self.answer.close()


def test_a_follower_gets_further_lines_as_they_come(api: Api) -> None:
    api = followed(api, **LONG)
    key = api.created()
    say(api, key, "one", "two")
    following = Following(api, key, "&tail=1")
    assert following.next() == ["two"]
    say(api, key, "three")
    say(api, key, "four", replica="r2")
    assert following.next() == ["three", "four"]
    following.close()


def test_following_goes_on_where_another_request_ended(api: Api) -> None:
    key = api.created()
    say(api, key, "one", "two", "three")
    answer = show(api, key, "?follow=true&format=ndjson&after=1")
    assert numbers(answer) == [2, 3]


def test_following_ends_in_time_by_itself(api: Api) -> None:
    key = api.created()
    say(api, key, "one")
    assert show(api, key, "?follow=true").text == "2026-01-06T12:00:00Z r1 one\n"
    assert show(api, api.created("model_id: b\nmodel_source: $HOME/common/hf/demo\n"), "?follow=true").text == "\n"


def test_following_ends_in_time_however_much_is_said(api: Api) -> None:
    key = api.created()
    following = Following(followed(api, log_follow_s=0.2), key)
    for _ in following.parts:
        say(api, key, "more")
    assert len(api.parts.engine_log.tail(key, 10)) > 1
    following.close()


def test_following_a_deleted_model_ends_with_its_last_line(api: Api) -> None:
    api = followed(api, **LONG)
    key = api.created()
    say(api, key, "one")
    file = api.parts.store.read().files[key]
    api.record(Record(file.identity, file.blob, file.commit, State.DELETED, file.commit.committed_at))
    following = Following(api, key)
    assert following.next() == ["one"]
    say(api, key, "goodbye")
    assert following.next() == ["goodbye"]
    with pytest.raises(StopIteration):
        following.next()
    following.close()


def test_following_ends_when_the_client_has_gone(api: Api) -> None:
    api = followed(api, **LONG)
    key = api.created()
    ours, theirs = socket.socketpair()
    with ours:
        following = Following(api, key, environ={"gunicorn.socket": ours})
        assert following.next() == []
        # Nor does one stay that is there and does not read.
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == struct.pack("ll", logs.WRITE_LIMIT_S, 0)
        say(api, key, "one")
        assert following.next() == ["one"]
        theirs.close()
        with pytest.raises(StopIteration):
            following.next()
        following.close()


def test_following_ends_when_the_process_is_told_to_stop(api: Api) -> None:
    api = followed(api, **LONG)
    key = api.created()
    stop = threading.Event()
    logs.end_when(api.app, stop.is_set)
    following = Following(api, key)
    assert following.next() == []
    stop.set()
    with pytest.raises(StopIteration):
        following.next()
    following.close()


def test_further_followers_than_allowed_are_told_to_come_again_until_one_leaves(api: Api) -> None:
    api = followed(api, log_followers=2, **LONG)
    key = api.created()
    first, second = Following(api, key), Following(api, key)
    third = show(api, key, "?follow=true")
    assert (third.status_code, third.json["error"]["code"]) == (503, "busy")
    assert int(third.headers["Retry-After"]) > 0
    assert show(api, key).status_code == 200
    first.next()
    first.close()
    second.close()  # before it has read anything
    for _ in range(3):
        again = [Following(api, key), Following(api, key)]
        assert [one.answer.status_code for one in again] == [200, 200]
        for one in again:
            one.close()
