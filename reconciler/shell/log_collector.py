"""Carries what engines print from the nodes into the ledger, once a second, on a thread of its own.

It stands beside the loop and never in its way: it has its own time limits, every failure is tried again a second later,
and no model is started, kept or stopped by what it does.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reconciler.core.log_lines import split
from reconciler.errors import ArgusError
from reconciler.shell.engine_log import KV_LIMIT_S, NAMESPACE, PREFIX, LogReader, Read
from reconciler.shell.ledger import Batch, EngineLog

log = logging.getLogger(__name__)

EVERY_S = 1.0
READ_LIMIT_S = 5.0
AWAY_S = 5.0
"""How long a node that does not answer, or all of Ray, is left alone."""

MOST_LINES = 500
"""Lines of one replica that are kept of one reading."""

QUIET_S = 10.0
"""A dead replica that has said nothing for so long will say nothing more: its engine's processes are gone too."""

HOUSEKEEPING_S = 3600.0
KEPT = timedelta(days=7)
"""How long the log of a model that is gone is kept."""


@dataclass(slots=True)
class _Source:
    """One replica's output, as the replica announced it. `position` is None where it was never read."""

    name: str
    model_key: str
    replica: str
    node: str
    pid: int
    started: int
    files: list[str]
    begin: list[int]
    position: str | None = None
    quiet_since: float = field(default_factory=time.monotonic)

    def offsets(self) -> list[int]:
        """Say where the next reading begins, a file."""
        return list(self.begin) if self.position is None else [int(offset) for offset in self.position.split()]


class LogCollector:
    """The thread. Needs a connection to Ray."""

    def __init__(self, kept: EngineLog, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Prepare; `start` begins.

        Args:
            kept: Where the lines go.
            is_wanted: Asked before each round: where several reconcilers run, one of them is enough. Two do no harm.
        """
        self._kept = kept
        self._is_wanted = is_wanted
        self._sources: dict[str, _Source] = {}
        self._positions: dict[str, str] | None = None
        self._readers: dict[str, Any] = {}
        self._away: dict[str, float] = {}
        self._trouble = ""
        self._next_housekeeping = time.monotonic() + EVERY_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-log", daemon=True)

    def start(self) -> None:
        """Begin to collect."""
        self._thread.start()

    def close(self, limit_s: float = 5.0) -> None:
        """End the thread, waiting for at most `limit_s`."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def _run(self) -> None:
        pause = EVERY_S
        while not self._closing.wait(pause):
            pause = EVERY_S
            try:
                if self._is_wanted():
                    self.collect()
                else:
                    self._positions = None  # another one moves them now
                    self._readers.clear()
                self._trouble = ""
            except Exception as error:  # whatever Ray or the ledger can end with: the next round may not
                pause = AWAY_S
                self._positions = None
                if (said := f"{type(error).__name__}: {error}") != self._trouble:
                    self._trouble = said
                    log.info("the engines' logs are not collected: %.300s", said)

    def collect(self) -> None:
        """Make one round. Raises what Ray's store raises, and ArgusError where the ledger does not take the lines."""
        if self._positions is None:
            self._positions = self._kept.positions()
            self._sources.clear()
        self._look_for_sources()
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            self._kept.forget_old(datetime.now(UTC) - KEPT, spare=self._sources)
        said = self._read()
        batches = [batch for source, alive, outputs in said if (batch := _batch(source, outputs, is_all=not alive))]
        if batches:
            self._kept.append(sorted(batches, key=lambda batch: batch.source), datetime.now(UTC))
        now = time.monotonic()
        for batch in batches:
            source = self._sources[batch.source]
            source.position, source.quiet_since = batch.after, now
            self._positions[batch.source] = batch.after
        for source, alive, outputs in said:
            gone = all(output is None for output in outputs)
            if not alive and (gone or now - source.quiet_since > QUIET_S):
                self._let_go(source)

    def _look_for_sources(self) -> None:
        """Learn of replicas that have announced themselves."""
        client = internal_kv.internal_kv_get_gcs_client()
        keys: Sequence[bytes] = client.internal_kv_keys(PREFIX, namespace=NAMESPACE, timeout=KV_LIMIT_S)
        there = {key.removeprefix(PREFIX).decode(errors="replace"): key for key in keys}
        for name in self._sources.keys() - there.keys():
            del self._sources[name]
        for name in there.keys() - self._sources.keys():
            announced = client.internal_kv_get(there[name], namespace=NAMESPACE, timeout=KV_LIMIT_S)
            if announced and (source := _source(name, announced)):
                source.position = (self._positions or {}).get(name)
                self._sources[name] = source

    def _read(self) -> list[tuple[_Source, bool, list[Read | None]]]:
        """Ask every node that has sources, all at once, and give what those say that answer in time."""
        now = time.monotonic()
        by_node: dict[str, list[_Source]] = {}
        for source in self._sources.values():
            if self._away.get(source.node, 0.0) <= now:
                by_node.setdefault(source.node, []).append(source)
        for node in self._readers.keys() - {source.node for source in self._sources.values()}:
            del self._readers[node]  # the last handle of an actor: it ends
        asked = {self._ask(node, sources): node for node, sources in by_node.items()}
        if not asked:
            return []
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=READ_LIMIT_S)
        said: list[tuple[_Source, bool, list[Read | None]]] = []
        for answer in ready:
            node = asked[answer]
            try:
                answers = ray.get(answer, timeout=READ_LIMIT_S)
            except Exception as error:  # an actor or a node that died: a new actor takes its place
                self._is_away(node, error)
                continue
            said += [(source, *one) for source, one in zip(by_node[node], answers, strict=True)]
        for answer in late:
            # An actor that starts takes seconds on a busy node, so it stays; its late answer is not waited for.
            self._away[asked[answer]] = time.monotonic() + AWAY_S
        return said

    def _ask(self, node: str, sources: Sequence[_Source]) -> Any:
        if node not in self._readers:
            # Not detached: it ends with this process, and its successor's is of its successor's code.
            self._readers[node] = (
                ray.remote(LogReader)
                .options(
                    num_cpus=0,
                    max_restarts=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                )
                .remote()
            )
        asked = [
            (source.pid, source.started, list(zip(source.files, source.offsets(), strict=True))) for source in sources
        ]
        return self._readers[node].read.remote(asked)

    def _is_away(self, node: str, error: Exception) -> None:
        self._readers.pop(node, None)
        self._away[node] = time.monotonic() + AWAY_S
        log.info("the engines' logs on node %s cannot be read: %.300s", node[:12], error)
        if isinstance(error, ActorUnschedulableError):  # the node is gone, and with it its files
            for source in [source for source in self._sources.values() if source.node == node]:
                self._let_go(source)

    def _let_go(self, source: _Source) -> None:
        """Forget a source that will say nothing more."""
        reader = self._readers.get(source.node)
        if reader is not None:
            reader.remove.remote(source.files)
        client = internal_kv.internal_kv_get_gcs_client()
        # First from Ray's store: a source that is there and was never read would be read from its beginning.
        key = PREFIX + source.name.encode()
        client.internal_kv_del(key, False, namespace=NAMESPACE, timeout=KV_LIMIT_S)
        self._sources.pop(source.name, None)
        if self._positions is not None:
            self._positions.pop(source.name, None)
        try:
            self._kept.forget(source.name)
        except ArgusError as error:
            log.debug("a source stays in the ledger until it is old: %s", error)


def _source(name: str, announced: bytes) -> _Source | None:
    model_key, _, replica = name.rpartition("/")
    try:
        facts = json.loads(announced)
        return _Source(
            name=name,
            model_key=model_key,
            replica=replica,
            node=str(facts["node"]),
            pid=int(facts["pid"]),
            started=int(facts["started"]),
            files=[str(file) for file in facts["files"]],
            begin=[int(offset) for offset in facts["from"]],
        )
    except (ValueError, KeyError, TypeError):
        log.warning("what a replica of %s says of its log is not understood", model_key)
        return None


def _batch(source: _Source, outputs: Sequence[Read | None], *, is_all: bool) -> Batch | None:
    """Give what a source said since it was last read, None where that is nothing."""
    lines: list[str] = []
    after = source.offsets()
    skipped = 0
    for index, output in enumerate(outputs):
        if output is None:
            continue
        lost, begin, data = output
        found, taken = split(data, is_all=is_all)
        skipped += lost
        lines += found
        after[index] = begin + taken
    if len(lines) > MOST_LINES:
        skipped += len(lines) - MOST_LINES
        lines = lines[-MOST_LINES:]
    position = " ".join(map(str, after))
    if position == (source.position or " ".join(map(str, source.begin))):
        return None
    if skipped:
        lines.insert(0, f"({skipped} lines left out: more than is kept of one second)")
    return Batch(source.name, source.model_key, source.replica, source.position, position, lines)
