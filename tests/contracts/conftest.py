"""What the contract suites run on: ledgers in memory and in real databases, and a Ray Serve of a file's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from reconciler.shell.ledger import SqlLedger, open_ledger
from reconciler.testing import MemoryLedger
from tests.contracts.ledgers import InDatabase, InMemory, World, url_of
from tests.contracts.runtime_rigs import ServeRig
from tests.postgres import Postgres
from tests.processes import running_ray


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
        return url_of(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_ledger()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Open a new ledger."""
    opened = open_ledger(url, timeout_s=5)
    yield opened
    opened.dispose()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each kind of ledger in turn, new."""
    if request.param == "memory":
        memory = MemoryLedger()
        yield World(lambda: memory, InMemory(memory))
        return
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    engine = open_ledger(server.new_ledger() if server else url_of(tmp_path), timeout_s=5)
    yield World(lambda: SqlLedger(engine), InDatabase(engine))
    engine.dispose()


@pytest.fixture(scope="module")
def serve_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeRig]:
    """Run a Ray Serve with 8 logical GPUs."""
    with running_ray(tmp_path_factory.mktemp("ray"), gpus=8) as address:
        rig = ServeRig(address)
        yield rig
        rig.watch.close()
        rig.runtime.close()
