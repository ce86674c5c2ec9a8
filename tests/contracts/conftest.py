"""The databases that the ledger may be kept in, real ones: an SQLite file and a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from reconciler.shell.ledger import open_ledger
from tests.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests; each has schemas of its own."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a ledger that nobody has opened yet, in each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_ledger()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Open a new ledger."""
    opened = open_ledger(url, timeout_s=5)
    yield opened
    opened.dispose()
