"""The router as a process, with the ledger's board."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.errors import LedgerLost
from reconciler.front.router import LedgerBoard
from reconciler.settings import Settings
from reconciler.shell.ledger import SqlBoard, open_ledger
from tests.contracts.front_rigs import SECRET, HaproxyRig, haproxy_rig, key_of, route, table
from tests.contracts.toy_replica import LIMIT_S, Stage, wait_for

MAIN = """
import sys
from pathlib import Path
from reconciler.front.router import main
from reconciler.settings import Settings
sys.exit(main(Settings.model_validate_json(Path(sys.argv[1]).read_text())))
"""


@contextmanager
def process(rig: HaproxyRig, **ledger: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run the router as a process of its own, in place of the rig's."""
    rig.stop_router()
    settings = rig.settings.model_copy(update={"ledger": rig.settings.ledger.model_copy(update=ledger)})
    given = rig.settings.home / "settings.json"
    given.write_text(settings.model_dump_json())
    log = rig.settings.home / "router.log"
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    with log.open("wb") as out:
        started = subprocess.Popen([sys.executable, "-c", MAIN, str(given)], env=environ, stdout=out, stderr=out)
    try:
        wait_for(lambda: "the router is up" in log.read_text() or started.poll() is not None)
        yield started
    finally:
        started.kill()
        started.wait(LIMIT_S)


def _log(rig: HaproxyRig) -> str:
    return (rig.settings.home / "router.log").read_text()


def test_it_follows_the_ledgers_board_and_ends_within_a_second(rig: HaproxyRig, stage: Stage) -> None:
    one = stage.replica(key_of("a"), SECRET)
    engine = open_ledger(rig.settings.ledger_url, timeout_s=5)
    with process(rig) as running:
        SqlBoard(engine).publish(table(route("a", one)))
        wait_for(lambda: rig.holds(table(route("a", one))))
        assert httpx.post(f"{rig.base_url}/classify", json={"model": "a"}).json()["replica"] == one.name
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(LIMIT_S) == 0
        assert time.monotonic() - began < 3  # a second, on a machine that has time
        assert "stopped" in _log(rig)
    engine.dispose()


def test_a_board_whose_ledger_was_deleted_reads_the_next_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    board, file = LedgerBoard(settings), tmp_path / "ledger.sqlite"
    assert board.read(0) is None
    file.unlink()
    with pytest.raises(LedgerLost):
        board.read(0)
    engine = open_ledger(settings.ledger_url, timeout_s=5)
    SqlBoard(engine).publish(table(route("a")))
    found = board.read(0)
    assert found is not None
    assert found[1].named("a") is not None
    engine.dispose()


def test_a_ledger_out_of_reach_is_said_once_and_the_desk_answers_meanwhile(rig: HaproxyRig) -> None:
    home = rig.settings.home / "nowhere"
    with process(rig, url=f"sqlite:///{home}/ledger.sqlite", timeout_s=1.0) as running:
        ready = wait_for(
            lambda: (
                (said := httpx.get(f"{rig.base_url}/readyz").json()).get("reason", "").startswith("the ledger") and said
            )
        )
        assert ready["status"] == "starting"
        assert running.poll() is None
        assert _log(rig).count("no news of routes") == 1


def test_a_ledger_that_cannot_be_used_ends_it_with_a_word(rig: HaproxyRig) -> None:
    with process(rig, url="nonsense://x") as running:
        assert running.wait(LIMIT_S) == 1
        assert "ledger.url" in _log(rig)


def test_a_port_for_figures_that_is_taken_is_said_and_no_more(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with haproxy_rig(tmp_path / "home", haproxy={"metrics_port": port}) as rig, process(rig) as running:
            wait_for(lambda: f"serving.haproxy.metrics_port: 127.0.0.1:{port}" in _log(rig))
            assert httpx.get(f"{rig.base_url}/readyz").status_code == 503
            assert running.poll() is None


def test_figures_may_be_off(tmp_path: Path) -> None:
    with haproxy_rig(tmp_path / "home", haproxy={"metrics_port": None}) as rig:
        assert httpx.get(f"{rig.base_url}/readyz").status_code == 503
