"""The road that users take: a request of one token through the front, for every version that is about to be announced.

What the front says of the answer (`wire.KEY_HEADER`, `wire.COMMIT_HEADER`) tells which model and which commit it came
from: an answer of the version that goes does not count for the one that comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import httpx

from reconciler.core.arrivals import Arrival
from reconciler.core.wire import COMMIT_HEADER, KEY_HEADER

log = logging.getLogger(__name__)

WAIT_S = 1.0
"""How long a pass waits for all its arrivals together. One that is not through by then is seen by a later pass."""

EVERY_S = 0.1
PATIENCE_S = 10.0
"""How long a version waits for its front. A front that is away, or on nodes that this one does not reach, is not the
model's failure: from then on Serve's word counts, and the log says so."""

ANSWER_S = 5.0
TOGETHER = 16


class FrontRoad:
    """`ports.Road` by HTTP. One thread at a time."""

    def __init__(
        self,
        base_url: str,
        *,
        wait_s: float = WAIT_S,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            base_url: The OpenAI API's, as users are told it.
            wait_s: The longest that `reached` takes, in seconds.
            patience_s: How long an arrival is held back at most.
            clock: Gives seconds.
        """
        self._url = f"{base_url.rstrip('/')}/completions"
        self._wait_s = wait_s
        self._patience_s = patience_s
        self._clock = clock
        self._asked: dict[Arrival, Future[bool]] = {}
        self._away_since: float | None = None
        """Since when nothing takes connections where the front should be; None while something does."""
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(TOGETHER, "road")
        self._client = httpx.Client(trust_env=False, limits=httpx.Limits(max_connections=TOGETHER))

    def reached(self, arrivals: Sequence[Arrival]) -> Collection[str]:
        """Keep `ports.Road.reached`."""
        began = self._clock()
        self._asked = {
            arrival: self._asked.get(arrival) or self._threads.submit(self._ask, arrival, began) for arrival in arrivals
        }
        wait(self._asked.values(), timeout=self._wait_s)
        over = [arrival for arrival, future in self._asked.items() if future.done()]
        for arrival in over:
            if not self._asked.pop(arrival).result():
                log.warning(
                    "%s is called running on Serve's word: no answer of it came through %s",
                    arrival.model_key,
                    self._url,
                )
        return frozenset(arrival.model_key for arrival in over)

    def close(self) -> None:
        """Ask no further."""
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, arrival: Arrival, began: float) -> bool:
        """Ask until an answer has come, or until it is no use."""
        while True:
            if self._answers(arrival):
                return True
            since = began if self._away_since is None else min(began, self._away_since)
            if self._clock() - since >= self._patience_s:
                return False
            if self._closing.wait(EVERY_S):
                return False

    def _answers(self, arrival: Arrival) -> bool:
        """Say whether an answer of this very version came back.

        Any that is the engine's own will do: a model of another kind refuses a completion, and it has answered a
        request of its own kind when it started.
        """
        body = {"model": arrival.model_id, "prompt": "Hello", "max_tokens": 1}
        try:
            answer = self._client.post(self._url, json=body, timeout=ANSWER_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            is_away = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            self._away_since = (self._away_since or self._clock()) if is_away else None
            return False
        self._away_since = None
        told = (answer.headers.get(KEY_HEADER), answer.headers.get(COMMIT_HEADER))
        return told == (arrival.model_key, arrival.commit) and not answer.is_server_error
