"""The courier between a real outbox and real servers: what is late, slow, down or refused, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from reconciler.core.announcements import STATUSES, Announcement
from reconciler.core.delivery import BoxState, Patience
from reconciler.shell.ledger import Entry, Outbox
from reconciler.shell.ledger import outbox as outbox_module
from reconciler.shell.ledger.engine import writing
from reconciler.shell.outbox import Courier
from reconciler.shell.outbox.destination import Destination
from reconciler.shell.outbox.statuses import CommitStatuses
from reconciler.shell.outbox.webhooks import Webhook
from tests.contracts.databases import ON_SQLITE
from tests.loop.test_runner import until
from tests.receivers import TOKEN, Answer, Receiver, Seen, provider, receiver

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
FASTER = 20
HOOK = "hook:chat"

pytestmark = ON_SQLITE


class Clock:
    """The time, going faster, so that pauses of seconds are fractions of one."""

    def __init__(self) -> None:
        self.began = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.began + (datetime.now(UTC) - self.began) * FASTER


class Post:
    """An outbox with a courier."""

    def __init__(self, engine: Engine, stack: ExitStack, folder: Path) -> None:
        self.engine, self.stack, self.folder = engine, stack, folder
        self.outbox = Outbox(engine)
        self.clock: Callable[[], datetime] = Clock()
        (folder / "secret").write_text(SECRET)

    def forge(self, url: str) -> Destination:
        return CommitStatuses("github", url, "team/specs", "main", token=TOKEN)

    def hook(self, url: str) -> Destination:
        return Webhook(HOOK, url, self.folder / "secret", allow_private=True)

    def put(self, number: int, description: str = "on its way", destination: str = STATUSES) -> None:
        body: dict[str, Any] = {"sha": f"{number:040x}", "context": "argus", "state": "pending", "target_url": None}
        if destination != STATUSES:
            body = {"id": f"ev-{number}"}
        made = Announcement(f"{destination}-{number}", destination, body | {"description": description})
        with writing(self.engine) as connection:
            outbox_module.write(connection, [made], self.clock())

    def start(self, *destinations: Destination, **known: Any) -> Courier:
        # With a time limit of 120 s a claim lasts for 125 s, and so for 6 s of a test: no busy machine takes so long.
        known = {"timeout_s": 120, "clock": self.clock, **known}
        courier = Courier(self.outbox, destinations, **known)
        self.stack.callback(courier.close)
        courier.start()
        return courier

    def waiting(self) -> int:
        return self.outbox.counts()[BoxState.PENDING]

    def dead(self) -> list[Entry]:
        return self.outbox.page(BoxState.DEAD, 100)


@pytest.fixture
def post(engine: Engine, tmp_path: Path) -> Iterator[Post]:
    with ExitStack() as stack:
        yield Post(engine, stack, tmp_path)


@pytest.fixture
def forge() -> Iterator[Receiver]:
    with provider("github") as running:
        yield running


@pytest.fixture
def chat() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def sent(server: Receiver) -> list[str]:
    return [seen.body["description"] for seen in server.seen]


def test_what_is_written_is_delivered_and_gone(post: Post, forge: Receiver) -> None:
    post.put(1)
    post.start(post.forge(forge.url))
    post.put(2)
    until(lambda: post.waiting() == 0)
    assert sorted(seen.path[-1] for seen in forge.seen) == ["1", "2"]
    assert forge.problems == []


@pytest.mark.parametrize(
    "trouble",
    [Answer(500), Answer(503, {"Retry-After": "3"}), Answer(429), Answer(401), Answer(404), Answer(cut_off=True)],
    ids=["500", "503", "429", "401", "404", "cut off"],
)
def test_what_fails_is_tried_again_until_it_arrives(post: Post, forge: Receiver, trouble: Answer) -> None:
    forge.script.append(trouble)
    post.put(1)
    post.start(post.forge(forge.url))
    until(lambda: post.waiting() == 0)
    assert sent(forge) == ["on its way", "on its way"]


def test_a_server_that_is_down_gets_everything_when_it_is_back(post: Post, forge: Receiver) -> None:
    forge.always = Answer(502)
    for number in range(10):
        post.put(number)
    post.start(post.forge(forge.url))
    forge.wait(2)
    forge.always = None
    until(lambda: post.waiting() == 0)
    assert {seen.path for seen in forge.seen} == {f"/repos/team/specs/statuses/{number:040x}" for number in range(10)}


def test_a_server_that_is_down_is_not_asked_for_each_letter(post: Post, forge: Receiver) -> None:
    forge.always = Answer(502)
    for number in range(200):
        post.put(number)
    post.start(post.forge(forge.url))
    forge.wait(4)
    assert len(forge.seen) < 20


def test_a_later_status_is_all_that_is_sent_of_one_that_waited(post: Post, forge: Receiver) -> None:
    post.put(1)
    post.put(1, "done")
    post.start(post.forge(forge.url))
    until(lambda: post.waiting() == 0)
    assert sent(forge) == ["done"]


def test_a_later_status_comes_after_the_one_that_is_on_its_way(post: Post, forge: Receiver) -> None:
    normal, may_answer = forge.respond, threading.Event()

    def slowly(seen: Seen) -> Answer:
        may_answer.wait(10)
        return normal(seen)

    forge.respond = slowly
    post.clock = lambda: datetime.now(UTC)  # no claim runs out meanwhile
    post.put(1)
    post.start(post.forge(forge.url))
    until(lambda: any(entry.attempts for entry in post.outbox.page(None, 9)))
    post.put(1, "done")
    assert forge.seen == []
    may_answer.set()
    until(lambda: post.waiting() == 0)
    assert sent(forge) == ["on its way", "done"]


def test_a_slow_receiver_takes_nothing_from_the_others(post: Post, forge: Receiver, chat: Receiver) -> None:
    chat.always = Answer(hang=True)
    for number in range(20):
        post.put(number, destination=HOOK)
    post.start(post.forge(forge.url), post.hook(chat.url))
    chat.wait(2)
    for number in range(20):
        post.put(number)
    forge.wait(20)
    assert len(chat.seen) == 2


def test_no_more_requests_are_on_their_way_than_there_may_be(post: Post, forge: Receiver) -> None:
    normal, counting = forge.respond, threading.Lock()
    now, most = 0, 0

    def counted(seen: Seen) -> Answer:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.02)
        with counting:
            now -= 1
        return normal(seen)

    forge.respond = counted
    for number in range(30):
        post.put(number)
    post.start(post.forge(forge.url), concurrency=3)
    until(lambda: post.waiting() == 0)
    assert most <= 3
    assert len(forge.seen) == 30


def test_what_is_refused_is_given_up_with_its_reason_and_sent_when_asked(post: Post, forge: Receiver) -> None:
    forge.always = Answer(422, body={"message": "No commit found for SHA"})
    post.put(1)
    post.start(post.forge(forge.url))
    until(lambda: len(post.dead()) == 1)
    (entry,) = post.dead()
    assert (entry.attempts, entry.trouble) == (3, "answer 422: No commit found for SHA")
    forge.always = None
    post.outbox.retry(entry.id, post.clock())
    until(lambda: post.outbox.page(None, 9) == [])


def test_what_does_not_arrive_in_time_is_given_up(post: Post, forge: Receiver) -> None:
    forge.always = Answer(500)
    post.put(1)
    post.start(post.forge(forge.url), patience=Patience(age=timedelta(seconds=3)))
    until(lambda: len(post.dead()) == 1)
    assert "given up after" in (post.dead()[0].trouble or "")


def test_a_missing_secret_is_told_and_made_good_later(post: Post, chat: Receiver) -> None:
    (post.folder / "secret").unlink()
    post.put(1, destination=HOOK)
    post.start(post.hook(chat.url))
    until(lambda: any(entry.trouble for entry in post.outbox.page(None, 9)))
    (entry,) = post.outbox.page(None, 9)
    assert entry.trouble == "secret_file of the notifications 'hook:chat' cannot be read: FileNotFoundError"
    (post.folder / "secret").write_text(SECRET)
    until(lambda: post.waiting() == 0)
    assert len(chat.seen) == 1


def test_who_does_not_lead_sends_nothing(post: Post, forge: Receiver) -> None:
    leads = threading.Event()
    asked = threading.Event()

    def is_wanted() -> bool:
        asked.set()
        return leads.is_set()

    post.put(1)
    post.start(post.forge(forge.url), is_wanted=is_wanted)
    assert asked.wait(10)
    assert forge.seen == []
    leads.set()
    until(lambda: post.waiting() == 0)


def test_of_two_couriers_on_one_outbox_each_letter_is_sent_by_one(post: Post, forge: Receiver) -> None:
    for number in range(40):
        post.put(number)
    for _ in range(2):
        post.start(post.forge(forge.url))
    until(lambda: post.waiting() == 0)
    assert len(forge.seen) == 40


def test_a_courier_ends_while_a_request_hangs_and_the_next_one_sends_it_again(post: Post, forge: Receiver) -> None:
    forge.script.append(Answer(hang=True))
    post.put(1)
    first = post.start(post.forge(forge.url), timeout_s=15)
    forge.wait(1)
    first.close()
    post.start(post.forge(forge.url))
    until(lambda: post.waiting() == 0)
    assert sent(forge) == ["on its way", "on its way"]


def test_what_is_for_a_destination_that_is_no_longer_configured_is_given_up(post: Post, forge: Receiver) -> None:
    post.put(1, destination="hook:old")
    post.start(post.forge(forge.url))
    until(lambda: len(post.dead()) == 1)
