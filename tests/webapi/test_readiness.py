"""What a probe is told, and what it costs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.errors import LedgerUnreachable
from tests.webapi.client import Api
from webapi.readiness import GRACE_S, KEEP_S, Check

READY = "/api/v2/readyz"


def test_an_api_with_all_that_it_needs_is_ready(api: Api) -> None:
    answer = api.call("GET", READY, None)
    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "checks": {"ledger": True, "spec_repository": True}, "reasons": []}


def test_an_api_without_its_repository_says_so_and_is_still_alive(api: Api) -> None:
    shutil.rmtree(api.folder / "specs.git")
    answer = api.call("GET", READY, None)
    assert answer.status_code == 503
    assert answer.json["checks"] == {"ledger": True, "spec_repository": False}
    assert answer.json["reasons"] == ["the spec repository does not answer"]
    assert api.call("GET", "/api/v2/healthz", None).status_code == 200


def test_an_api_without_its_ledger_says_so(api: Api) -> None:
    with api.parts.ledger._engine.begin() as connection:  # opens a connection that the next line spoils
        connection.exec_driver_sql("SELECT 1")
    api.parts.ledger._engine.dispose()
    for file in api.folder.glob("ledger.sqlite*"):
        file.unlink()
    (api.folder / "ledger.sqlite").mkdir()
    answer = api.call("GET", READY, None)
    assert answer.status_code == 503
    assert answer.json["reasons"] == ["the ledger does not answer"]


def test_no_answer_names_a_machine_or_a_folder(api: Api) -> None:
    shutil.rmtree(api.folder / "specs.git")
    assert str(api.folder) not in api.call("GET", READY, None).text


class Thing:
    """Something needed: counts how often it is asked, and can be away or hang."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.away = False
        self.free = threading.Event()
        self.free.set()
        self.check = Check("the ledger", self, lambda: self.now, limit_s=0.05)

    def __call__(self) -> None:
        self.asked += 1
        self.free.wait(20)
        if self.away:
            raise LedgerUnreachable("the ledger at postgresql://db.internal/argus does not answer")


@pytest.fixture
def thing() -> Iterator[Thing]:
    made = Thing()
    yield made
    made.free.set()


def becomes(thing: Thing, trouble: str | None) -> None:
    """Ask until that is the answer: the thread that finds out may be slow to begin."""
    deadline = time.monotonic() + 20
    while thing.check.trouble() != trouble:
        assert time.monotonic() < deadline, f"it never was {trouble}"
        time.sleep(0.01)


def test_a_storm_of_probes_asks_once(thing: Thing) -> None:
    becomes(thing, None)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: thing.check.trouble(), range(200))) == {None}
    assert thing.asked == 1
    thing.now += KEEP_S
    becomes(thing, None)


def test_what_hangs_is_asked_once_and_holds_nobody_up(thing: Thing) -> None:
    thing.free.clear()
    for _ in range(3):
        assert thing.check.trouble() == "the ledger does not answer within 0.05 s"
        thing.now += 10
    assert thing.asked == 1
    thing.free.set()
    becomes(thing, None)


def test_what_has_just_answered_may_take_its_time(thing: Thing) -> None:
    becomes(thing, None)
    thing.free.clear()
    thing.now += KEEP_S
    assert thing.check.trouble() is None
    thing.now += GRACE_S
    assert thing.check.trouble() is not None


def test_what_comes_back_is_ready_again(thing: Thing) -> None:
    thing.away = True
    becomes(thing, "the ledger does not answer")
    thing.away = False
    assert thing.check.trouble() == "the ledger does not answer"  # an answer counts for a second
    thing.now += KEEP_S
    becomes(thing, None)
