"""The outbox over HTTP and as `argus outbox`: seen and sent again by the admin, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from argus import cli
from reconciler.core.announcements import STATUSES, Announcement
from reconciler.core.delivery import Dead, Letter
from reconciler.shell.ledger import open_ledger
from reconciler.shell.ledger import outbox as outbox_module
from reconciler.shell.ledger.engine import writing
from tests.webapi.client import ADMIN_TOKEN, Api, listening

OUTBOX = "/api/v2/serve/outbox"
NOW = datetime.now(UTC)
SHA = "5f3a" * 10


def put(api: Api, *numbers: int) -> None:
    """Announce something, as a pass would."""
    body = {"sha": SHA, "context": "argus", "state": "failure", "description": "REJECTED alice/qwen: line 3"}
    engine = open_ledger(api.parts.settings.ledger_url, 5)
    with writing(engine) as connection:
        outbox_module.write(connection, [Announcement(f"st-{each}", STATUSES, body) for each in numbers], NOW)
    engine.dispose()


def claim(api: Api) -> list[Letter]:
    now = datetime.now(UTC)  # not NOW: a claim is good for a minute, and tests are collected long before
    return api.parts.outbox.claim({STATUSES: 99}, now, now + timedelta(minutes=1))


def give_up(api: Api) -> None:
    for letter in claim(api):
        api.parts.outbox.settle(letter, Dead("answer 422: No commit found for SHA"), NOW)


def test_an_admin_sees_what_has_not_arrived_and_why(api: Api) -> None:
    assert api.get(OUTBOX, "admin") == {"items": [], "next_cursor": None}
    put(api, 1)
    give_up(api)
    put(api, 2)
    waiting, dead = api.get(OUTBOX, "admin")["items"]
    assert (waiting["id"], waiting["state"], waiting["attempts"], waiting["error"]) == ("st-2", "pending", 0, None)
    assert waiting["next_attempt_at"] == waiting["since"]
    assert (dead["id"], dead["state"], dead["attempts"]) == ("st-1", "dead", 1)
    assert dead["error"] == "answer 422: No commit found for SHA"
    assert (dead["next_attempt_at"], dead["given_up_at"] is not None) == (None, True)
    assert dead["body"]["description"] == "REJECTED alice/qwen: line 3"
    for state, id_ in (("pending", "st-2"), ("dead", "st-1")):
        assert [each["id"] for each in api.get(f"{OUTBOX}?state={state}", "admin")["items"]] == [id_]


def test_pages_lead_through_all_of_it(api: Api) -> None:
    put(api, *range(5))
    seen: list[str] = []
    cursor = ""
    while True:
        page = api.get(f"{OUTBOX}?limit=2{cursor}", "admin")
        seen += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["st-4", "st-3", "st-2", "st-1", "st-0"]


def test_what_was_given_up_is_due_again_when_an_admin_asks(api: Api) -> None:
    put(api, 1)
    give_up(api)
    answer = api.call("POST", f"{OUTBOX}/st-1/retry", "admin")
    assert (answer.status_code, answer.json["state"], answer.json["attempts"]) == (202, "pending", 0)
    assert [letter.id for letter in claim(api)] == ["st-1"]


@pytest.mark.parametrize("id_", ["st-99", "hook", "-"])
def test_what_is_not_there_cannot_be_sent_again(api: Api, id_: str) -> None:
    assert api.call("POST", f"{OUTBOX}/{id_}/retry", "admin").status_code == 404


@pytest.mark.parametrize(("who", "status"), [("alice", 403), (None, 401)])
def test_the_outbox_is_the_admins(api: Api, who: str | None, status: int) -> None:
    put(api, 1)
    assert api.call("GET", OUTBOX, who).status_code == status
    assert api.call("POST", f"{OUTBOX}/st-1/retry", who).status_code == status


@pytest.mark.parametrize("query", ["state=delivered", "cursor=x", "limit=0"])
def test_a_wrong_question_is_told(api: Api, query: str) -> None:
    assert api.call("GET", f"{OUTBOX}?{query}", "admin").status_code == 400


class TestCommand:
    """`argus outbox`, against a real server."""

    @pytest.fixture
    def server(self, api: Api) -> Iterator[str]:
        with listening(api) as url:
            yield url

    def run(self, server: str, *words: str, token: str = ADMIN_TOKEN) -> int:
        return cli.main(["outbox", *words], {"ARGUS_SERVER": server, "ARGUS_TOKEN": token})

    def test_it_shows_and_sends_again(self, api: Api, server: str, capsys: pytest.CaptureFixture[str]) -> None:
        def said(*words: str) -> list[str]:
            assert self.run(server, *words) == 0
            return capsys.readouterr().out.splitlines()

        assert said() == ["the outbox is empty"]
        assert said("--retry-dead") == ["nothing was given up"]
        put(api, *range(3))
        give_up(api)
        put(api, 9)
        waiting, *dead = said()
        assert waiting.startswith("st-9 statuses: argus failure on 5f3a5f3a5f3a; 0 attempts since ")
        assert len(dead) == 3
        assert dead[0].endswith("given up: answer 422: No commit found for SHA")
        assert said("--state", "pending") == [waiting]
        assert said("--retry", "st-1") == ["st-1: due now, for statuses"]
        assert said("--retry-dead") == ["st-2: due now, for statuses", "st-0: due now, for statuses"]
        assert said("--state", "dead") == ["nothing was given up"]

    def test_a_user_is_told_that_it_is_not_for_them(self, api: Api, server: str, capsys: Any) -> None:
        assert self.run(server, token=api.token("alice")) == 1
        assert "403" in capsys.readouterr().err
