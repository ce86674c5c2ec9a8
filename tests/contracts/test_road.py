"""The road that users take is asked before a model is called running, and does not hold one up that it cannot judge."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reconciler.core.arrivals import Arrival
from reconciler.core.wire import COMMIT_HEADER, KEY_HEADER
from reconciler.shell.road import FrontRoad
from tests.processes import free_port
from tests.servers import Handler, serving

A = Arrival("svc-a", "alice-202601061230-a", "v2", "commit-2")
B = Arrival("svc-b", "bob-202601061230-b", "v1", "commit-1")
LIMIT_S = 20.0


class Front:
    """What stands on the public port. `answers` says for each model id what is answered: a status, a key, a commit."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, str]] = {}
        self.asked: list[dict[str, Any]] = []
        self.base_url = ""


@contextmanager
def a_front() -> Iterator[Front]:
    front = Front()

    class Answering(Handler):
        def do_POST(self) -> None:  # noqa: N802  http.server calls it so
            body = json.loads(self.body())
            front.asked.append({"path": self.path, **body})
            status, key, commit = front.answers.get(body["model"], (503, "", ""))
            self.send_response(status)
            for name, value in ((KEY_HEADER, key), (COMMIT_HEADER, commit)):
                if value:
                    self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

    with serving(Answering) as url:
        front.base_url = f"{url}/v1"
        yield front


@contextmanager
def a_road(base_url: str, *, wait_s: float = LIMIT_S, patience_s: float = LIMIT_S) -> Iterator[FrontRoad]:
    road = FrontRoad(base_url, wait_s=wait_s, patience_s=patience_s)
    try:
        yield road
    finally:
        road.close()


def test_a_version_that_answers_through_the_front_is_reached() -> None:
    with a_front() as front, a_road(front.base_url) as road:
        front.answers = {A.model_id: (200, A.model_key, A.commit), B.model_id: (200, B.model_key, B.commit)}
        assert road.reached([A, B]) == {A.model_key, B.model_key}
        assert sorted((one["path"], one["model"], one["max_tokens"]) for one in front.asked) == [
            ("/v1/completions", A.model_id, 1),
            ("/v1/completions", B.model_id, 1),
        ]
        assert road.reached([]) == frozenset()


def test_a_model_of_another_kind_is_reached_by_its_own_refusal() -> None:
    with a_front() as front, a_road(front.base_url) as road:
        front.answers = {A.model_id: (404, A.model_key, A.commit)}
        assert road.reached([A]) == {A.model_key}


@pytest.mark.parametrize(
    "answer",
    [
        (200, A.model_key, "commit-1"),  # the version that goes still answers
        (200, "svc-other", A.commit),
        (503, A.model_key, A.commit),  # its engine is dead
        (503, "", ""),  # the front has not heard of it
    ],
)
def test_no_other_answer_counts_and_the_right_one_is_waited_for(answer: tuple[int, str, str]) -> None:
    with a_front() as front, a_road(front.base_url, wait_s=0.01) as road:
        front.answers = {A.model_id: answer}
        assert road.reached([A]) == frozenset()
        while len(front.asked) < 3:
            assert road.reached([A]) == frozenset()
        front.answers = {A.model_id: (200, A.model_key, A.commit)}
        while not (reached := road.reached([A])):
            pass
        assert reached == {A.model_key}


def test_one_that_is_not_reached_holds_up_no_other() -> None:
    with a_front() as front, a_road(front.base_url, wait_s=1.0) as road:
        front.answers = {B.model_id: (200, B.model_key, B.commit)}
        assert road.reached([A, B]) == {B.model_key}


@pytest.mark.parametrize("where", ["there", "away", "no address"])
def test_a_front_that_cannot_say_does_not_keep_a_model_for_ever(caplog: pytest.LogCaptureFixture, where: str) -> None:
    with a_front() as front, caplog.at_level(logging.WARNING, "reconciler.shell.road"):
        url = {"there": front.base_url, "away": f"http://127.0.0.1:{free_port()}/v1", "no address": "http://a:b/v1"}
        with a_road(url[where], patience_s=0.3) as road:
            assert road.reached([A]) == {A.model_key}
    assert "svc-a is called running on Serve's word" in caplog.text


def test_a_front_that_is_known_to_be_away_is_waited_for_once() -> None:
    seconds = iter(range(0, 10_000, 4))
    road = FrontRoad(f"http://127.0.0.1:{free_port()}/v1", patience_s=10, clock=lambda: float(next(seconds)))
    try:
        while not road.reached([A]):
            pass
        before = next(seconds)
        while not road.reached([B]):
            pass
        assert next(seconds) - before <= 5 * 4, "the second waited as long as the first"
    finally:
        road.close()
