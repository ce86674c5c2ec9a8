"""What the ledger keeps of engines' output: bounded, in order, no line twice and none lost between two collectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from reconciler.core.entities import State
from reconciler.errors import Moved
from reconciler.ports import Advance
from reconciler.shell.ledger import Batch, EngineLog, SqlLedger, open_ledger
from reconciler.shell.ledger.engine_log import MOST_BYTES, MOST_LINES
from tests.contracts.ledgers import NOON, record, url_of

KEY = "svc-alice-a"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_ledger(url_of(tmp_path), timeout_s=5)
    yield opened
    opened.dispose()


def batch(lines: Sequence[str], before: str | None, after: str, replica: str = "r1", key: str = KEY) -> Batch:
    return Batch(f"{key}/{replica}", key, replica, before, after, lines)


def texts(log: EngineLog, limit: int = 10_000, key: str = KEY) -> list[str]:
    return [line.text for line in log.tail(key, limit)]


def test_lines_come_back_in_order_with_their_replica_time_and_number(engine: Engine) -> None:
    log = EngineLog(engine)
    later = NOON + timedelta(seconds=1)
    log.append([batch(["one", "two"], None, "8"), batch(["uno"], None, "4", "r2")], NOON)
    log.append([batch(["three \N{SNOWMAN} \N{REPLACEMENT CHARACTER}"], "8", "20")], later)
    found = [(line.number, line.time, line.replica, line.text) for line in EngineLog(engine).tail(KEY, 10)]
    assert found == [
        (1, NOON, "r1", "one"),
        (2, NOON, "r1", "two"),
        (3, NOON, "r2", "uno"),
        (4, later, "r1", "three \N{SNOWMAN} \N{REPLACEMENT CHARACTER}"),
    ]


def test_a_model_shows_its_own_lines_only(engine: Engine) -> None:
    log = EngineLog(engine)
    log.append([batch(["mine"], None, "5"), batch(["hers"], None, "5", key="svc-bob-b")], NOON)
    assert texts(log) == ["mine"]
    assert texts(log, key="svc-bob-b") == ["hers"]
    assert texts(log, key="svc-\0-\N{SNOWMAN}") == []


def test_the_tail_is_the_newest_lines_and_after_goes_on_from_any_of_them(engine: Engine) -> None:
    log = EngineLog(engine)
    position = None
    for first in range(0, 30, 3):
        log.append([batch([f"line {first + n}" for n in range(3)], position, str(first))], NOON)
        position = str(first)
    assert texts(log, 4) == ["line 26", "line 27", "line 28", "line 29"]
    assert texts(log, 0) == []
    for number in (0, 1, 2, 3, 29, 30, 99):
        assert [line.number for line in log.after(KEY, number, 5)] == list(range(number + 1, 31))[:5]


def test_what_two_collectors_read_at_once_is_kept_once(engine: Engine) -> None:
    one, other = EngineLog(engine), EngineLog(engine)
    one.append([batch(["a"], None, "2")], NOON)
    with pytest.raises(Moved):
        other.append([batch(["of another source"], None, "9", "r2"), batch(["a"], None, "2")], NOON)
    assert texts(one) == ["a"]
    assert other.positions() == {f"{KEY}/r1": "2"}
    with pytest.raises(Moved):
        other.append([batch(["b"], "1", "3")], NOON)
    other.append([batch(["b"], "2", "4")], NOON)
    assert texts(one) == ["a", "b"]


def test_a_source_that_is_forgotten_leaves_its_lines(engine: Engine) -> None:
    log = EngineLog(engine)
    log.append([batch(["last words"], None, "11")], NOON)
    log.forget(f"{KEY}/r1")
    assert log.positions() == {}
    assert texts(log) == ["last words"]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 300)), min_size=1, max_size=12))
def test_a_log_stays_within_its_bounds_and_keeps_the_newest(
    sizes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = open_ledger(url_of(tmp_path_factory.mktemp("ledger")), timeout_s=5)
    log = EngineLog(engine)
    said: list[str] = []
    for number, (count, width) in enumerate(sizes):
        lines = [f"{number} {n}".ljust(width, "x") for n in range(count)]
        log.append([batch(lines, str(number - 1) if number else None, str(number))], NOON)
        said += lines
    kept = log.tail(KEY, 100_000)
    assert [line.text for line in kept] == said[-len(kept) :]
    assert kept[-1].number == len(said)
    # A tenth more may pile up, and the newest row stays whatever its size.
    most = sizes[-1][0] * (sizes[-1][1] + 20)
    assert len(kept) <= MOST_LINES * 1.1 + sizes[-1][0]
    assert sum(len(line.text) for line in kept) <= MOST_BYTES * 1.1 + most
    engine.dispose()


def test_models_that_are_gone_are_forgotten_after_a_while_and_others_never(engine: Engine) -> None:
    log = EngineLog(engine)
    ledger = SqlLedger(engine)
    ledger.record(0, Advance("c" * 40, [record("a", State.RUNNING), record("b", State.DELETED)]))
    keys = ("svc-alice-a", "svc-alice-b", "svc-nobody-c")
    log.append([batch(["old"], None, "4", key=key) for key in keys], NOON)
    log.forget_old(NOON)
    assert [texts(log, key=key) for key in keys] == [["old"]] * 3
    log.forget_old(NOON + timedelta(seconds=1), spare={f"{KEY}/r1"})
    assert [texts(log, key=key) for key in keys] == [["old"], [], []]
    assert log.positions() == {f"{KEY}/r1": "4"}
    log.forget_old(NOON + timedelta(seconds=1))
    assert texts(log) == ["old"]
    assert log.positions() == {}
