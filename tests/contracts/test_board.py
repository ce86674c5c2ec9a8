"""What the board promises to the fronts that read it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from reconciler.core.routes import Name, Replica, RoutingTable, Unavailable, routing_table
from reconciler.errors import LedgerUnreachable
from reconciler.shell.ledger import SqlBoard
from reconciler.shell.publisher import Publisher

NAME = Name("alice-qwen", "svc-a", "alice", 1, {"v1": "c1"}, Unavailable("model_loading", "is still loading", 10))
REPLICA = Replica("r1", "svc-a", "v1", "127.0.0.1:9001")
EMPTY = RoutingTable("secret", ())
TABLE = routing_table("secret", [NAME], [REPLICA])


def test_an_empty_board_has_nothing_to_read(engine: Engine) -> None:
    assert SqlBoard(engine).read(0) is None


def test_a_table_is_read_once_by_whoever_remembers_its_number(engine: Engine) -> None:
    SqlBoard(engine).publish(TABLE)
    reader = SqlBoard(engine)
    read = reader.read(0)
    assert read is not None
    number, table = read
    assert table == TABLE
    assert reader.read(number) is None
    SqlBoard(engine).publish(EMPTY)
    again = reader.read(number)
    assert again is not None
    assert again[1] == EMPTY
    assert again[0] > number


def test_after_the_board_was_cleared_a_new_table_is_new_to_everybody(engine: Engine) -> None:
    board = SqlBoard(engine)
    for _ in range(5):
        board.publish(TABLE)
    read = board.read(0)
    assert read is not None
    board.clear()
    assert board.read(0) is None
    board.publish(TABLE)
    again = board.read(read[0])
    assert again is not None
    assert again[0] > read[0]


class Wall:
    """A board that can be out of reach."""

    def __init__(self) -> None:
        self.tables: list[RoutingTable] = []
        self.away = False

    def publish(self, table: RoutingTable) -> None:
        if self.away:
            raise LedgerUnreachable("locked")
        self.tables.append(table)


def test_nothing_is_put_up_before_names_and_replicas_are_known() -> None:
    wall = Wall()
    publisher = Publisher(wall)
    publisher.know("secret")
    publisher.show([NAME])
    assert wall.tables == []
    publisher.take_requests([REPLICA])
    assert wall.tables == [TABLE]


def test_what_did_not_change_is_not_put_up_again() -> None:
    wall = Wall()
    publisher = Publisher(wall)
    publisher.know("secret")
    publisher.take_requests([])
    for _ in range(3):
        publisher.show([NAME])
    assert len(wall.tables) == 1


def test_what_could_not_be_put_up_is_put_up_by_the_next_pass() -> None:
    wall = Wall()
    publisher = Publisher(wall)
    publisher.know("secret")
    publisher.show([NAME])
    wall.away = True
    publisher.take_requests([REPLICA])
    with pytest.raises(LedgerUnreachable):
        publisher.show([NAME])
    wall.away = False
    publisher.show([NAME])
    assert wall.tables == [TABLE]


class TestUnderALease:
    """Who leads, publishes. `token` is None for one that waits."""

    @pytest.fixture(autouse=True)
    def _set_up(self) -> None:
        self.token: int | None = 1
        self.wall = Wall()
        self.publisher = Publisher(self.wall, lambda: self.token)
        self.publisher.know("secret")

    def test_one_that_waits_puts_nothing_up(self) -> None:
        self.token = None
        self.publisher.take_requests([REPLICA])
        self.publisher.show([NAME])
        assert self.wall.tables == []

    def test_one_that_lost_the_lease_puts_up_no_change_of_replicas(self) -> None:
        self.publisher.take_requests([REPLICA])
        self.publisher.show([NAME])
        self.token = None
        self.publisher.take_requests([])
        assert self.wall.tables == [TABLE]

    def test_one_that_leads_again_waits_for_the_names_of_its_next_pass(self) -> None:
        self.publisher.take_requests([REPLICA])
        self.publisher.show([NAME])
        self.token = 3
        self.publisher.take_requests([])
        self.publisher.take_requests([REPLICA])
        assert self.wall.tables == [TABLE]
        self.publisher.show([NAME])
        assert self.wall.tables == [TABLE, TABLE]  # another's hung there meanwhile
