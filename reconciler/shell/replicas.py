"""Learns which replicas take requests, as soon as Serve's controller knows.

Serve broadcasts the replicas of each deployment by long poll: one that has started is in it, one that is told to stop
or is found dead is not. Each carries what its `record_replica_metadata` said.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve._private.common import DeploymentID
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.long_poll import LISTEN_FOR_CHANGE_REQUEST_TIMEOUT_S, LongPollNamespace

from reconciler.core.routes import Replica
from reconciler.names import APP_NAME

log = logging.getLogger(__name__)

METADATA = "argus"
"""Where a replica says its `address` and `version`, within its metadata."""

LOOK_S = 1.0
AWAY_S = 0.5
"""How long a controller that does not answer is left alone."""

LISTEN_LIMIT_S = LISTEN_FOR_CHANGE_REQUEST_TIMEOUT_S[1] + 60.0
"""The controller ends a listen after at most 60 s by itself; one that is not back then is taken for lost."""

FIRST_SET_S = 10.0
"""How long the first set may wait for deployments that the controller has said nothing about yet."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_NEVER_SEEN = -1

TOGETHER = 100
"""Models that share a listen. The controller takes 0.2 s for 10 listens of 100 models, and 2 s for 1000 of one."""


@dataclass(slots=True)
class _Heard:
    """What the controller last said of one deployment, under which number; None before it has."""

    number: int = _NEVER_SEEN
    replicas: tuple[Replica, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Listen:
    """A call that the controller answers when one of these models changes. `limit` is on the monotonic clock."""

    model_keys: Sequence[str]
    limit: float


class ReplicaWatch:
    """A thread that listens at Serve's controller and reports the whole set of replicas whenever it has changed.

    Each model is in one listen, never in two, and a listen whose models are not followed any more ends by itself.
    While the controller is away the last set stays true.
    """

    def __init__(self, on_change: Callable[[tuple[Replica, ...]], None]) -> None:
        """Prepare; the first `follow` begins.

        Args:
            on_change: Is given every replica that takes requests, in the order of their names, on the watch's own
                thread. The first set comes when every model that was followed first has been heard of.
        """
        self._on_change = on_change
        self._inbox: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self._followed: frozenset[str] = frozenset()
        self._heard: dict[str, _Heard] = {}
        self._listens: dict[Future[Any], _Listen] = {}
        self._controller: Any = None
        self._away_until = 0.0
        self._first_set_by = 0.0
        self._reported: tuple[Replica, ...] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replicas", daemon=True)
        self._starting = threading.Lock()

    def follow(self, model_keys: Iterable[str]) -> None:
        """Watch these models' deployments from now on, and no others. Returns at once; needs a connection to Ray."""
        self._followed = frozenset(model_keys)
        with self._starting:
            if not self._thread.is_alive() and not self._closing.is_set():
                self._first_set_by = time.monotonic() + FIRST_SET_S
                self._thread.start()
        self._inbox.put(None)

    def close(self, limit_s: float = 5.0) -> None:
        """End the thread, waiting for at most `limit_s`. Nothing is reported afterwards."""
        self._closing.set()
        self._inbox.put(None)
        with self._starting:
            if self._thread.is_alive():
                self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._listen()
            for done in self._answers():
                self._take(done)
            self._report()

    def _answers(self) -> Iterable[Future[Any]]:
        """Wait for something to happen, then give all that is there: many answers make one report."""
        answers = []
        try:
            answers.append(self._inbox.get(timeout=LOOK_S))
            while True:
                answers.append(self._inbox.get_nowait())
        except queue.Empty:
            return [answer for answer in answers if answer is not None]

    def _listen(self) -> None:
        """Listen for every model that nobody listens for."""
        now = time.monotonic()
        self._listens = {future: listen for future, listen in self._listens.items() if now < listen.limit}
        heard_soon = {key for listen in self._listens.values() for key in listen.model_keys}
        for key in self._heard.keys() - self._followed - heard_soon:
            del self._heard[key]
        missing = sorted(self._followed - heard_soon)
        if not missing or now < self._away_until:
            return
        try:
            if self._controller is None:
                self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            for first in range(0, len(missing), TOGETHER):
                together = missing[first : first + TOGETHER]
                self._listens[self._ask(together)] = _Listen(together, now + LISTEN_LIMIT_S)
        except (RayError, ValueError, OSError) as error:
            self._controller_is_away(error)

    def _ask(self, model_keys: Sequence[str]) -> Future[Any]:
        asked = {_poll_key(key): self._heard.setdefault(key, _Heard()).number for key in model_keys}
        future: Future[Any] = self._controller.listen_for_change.remote(asked).future()
        future.add_done_callback(self._inbox.put)
        return future

    def _take(self, done: Future[Any]) -> None:
        listen = self._listens.pop(done, None)
        if listen is None:
            return  # taken for lost, and late
        try:
            answer = done.result()
        except Exception as error:  # whatever a call to an actor can end with: the next one may not
            self._controller_is_away(error)
            return
        if not isinstance(answer, Mapping):
            return  # nothing has changed for as long as a listen takes
        for key in listen.model_keys:
            if (update := answer.get(_poll_key(key))) is not None:
                replicas = tuple(_replicas(key, update.object_snapshot.running_replicas))
                self._heard[key] = _Heard(update.snapshot_id, replicas)

    def _controller_is_away(self, error: Exception) -> None:
        log.info("Serve's controller does not answer: %s", error)
        self._controller = None
        self._away_until = time.monotonic() + AWAY_S

    def _report(self) -> None:
        known = [self._heard[key].replicas if key in self._heard else None for key in self._followed]
        if self._reported is None and None in known and time.monotonic() < self._first_set_by:
            return
        found = sorted((replica for replicas in known for replica in replicas or ()), key=lambda one: one.name)
        if (current := tuple(found)) != self._reported and not self._closing.is_set():
            self._reported = current
            try:
                self._on_change(current)
            except Exception:  # the thread must go on: the next change is reported whatever became of this one
                log.exception("the replicas could not be reported")


def _poll_key(model_key: str) -> tuple[Any, Any]:
    return (LongPollNamespace.DEPLOYMENT_TARGETS, DeploymentID(model_key, APP_NAME))


def _replicas(model_key: str, running: Iterable[Any]) -> Iterable[Replica]:
    for info in running:
        try:
            said = info.replica_metadata[METADATA]
            address, version = str(said["address"]), str(said["version"])
        except (KeyError, TypeError):
            log.warning("a replica of %s does not say its address and version (record_replica_metadata)", model_key)
            continue
        yield Replica(_UNSAFE.sub("-", info.replica_id.unique_id), model_key, version, address)
