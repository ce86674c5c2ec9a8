"""From what was read on a node to what is kept: lines, positions, and a word for what is left out."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def collector() -> Any:
    from reconciler.shell import log_collector

    return log_collector


def source(collector: Any, position: str | None = None) -> Any:
    announced = b'{"node": "n1", "pid": 7, "started": 9, "files": ["/o", "/e"], "from": [100, 50]}'
    found = collector._source("svc-alice-a/r1", announced)
    found.position = position
    return found


def test_a_first_reading_begins_where_the_replica_began(collector: Any) -> None:
    first = source(collector)
    assert (first.model_key, first.replica, first.offsets()) == ("svc-alice-a", "r1", [100, 50])
    batch = collector._batch(first, [(0, 100, b"one\ntwo\nthr"), (0, 50, b"warning\n")], is_all=False)
    assert (batch.source, batch.before, batch.after) == ("svc-alice-a/r1", None, "108 58")
    assert batch.lines == ["one", "two", "warning"]


def test_nothing_new_is_nothing_to_keep(collector: Any) -> None:
    assert collector._batch(source(collector), [(0, 100, b""), (0, 50, b"")], is_all=False) is None
    assert collector._batch(source(collector, "108 58"), [(0, 108, b"thr"), None], is_all=False) is None


def test_a_dead_replicas_last_line_needs_no_end(collector: Any) -> None:
    batch = collector._batch(source(collector, "108 58"), [(0, 108, b"Killed"), None], is_all=True)
    assert (batch.before, batch.after, batch.lines) == ("108 58", "114 58", ["Killed"])


def test_what_is_skipped_is_counted_in_a_line_of_its_own(collector: Any) -> None:
    many = b"".join(b"line %d\n" % number for number in range(1000))
    batch = collector._batch(source(collector), [(41, 5000, many), (1, 60, b"")], is_all=False)
    assert batch.lines[0] == "(542 lines left out: more than is kept of one second)"
    assert batch.lines[1:] == [f"line {number}" for number in range(500, 1000)]
    assert batch.after == f"{5000 + len(many)} 60"


@pytest.mark.parametrize("announced", [b"", b"{}", b"[1]", b'{"node": "n", "pid": "x", "started": 0}', b"\xff"])
def test_an_announcement_that_is_not_understood_is_left_alone(collector: Any, announced: bytes) -> None:
    assert collector._source("svc-alice-a/r1", announced) is None
