"""What a probe of the reconciler is told: that it goes round, and whether it works, waits, or why it does neither."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.front.listening import tcp_socket
from reconciler.shell.leadership import Leadership
from reconciler.shell.probes import CLIENTS, ProbeServer
from reconciler.shell.pulse import STALE_S, Health, Pulse
from reconciler.shell.systemd import Watchdog
from reconciler.testing import MemoryLeases

INTERVAL_S = 5.0
PASS_LIMIT_S = 300.0


class Loop:
    """A reconciler's pulse and leadership on a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.leases = MemoryLeases()
        self.leadership = Leadership(self.leases, "a", 10, lambda: self.now)
        self.pulse = Pulse(INTERVAL_S, PASS_LIMIT_S, lambda: self.now)

    def ready(self) -> Health:
        return self.pulse.ready(self.leadership)

    def makes_a_pass(self, trouble: str = "") -> None:
        self.pulse.pass_began()
        self.pulse.pass_ended(trouble)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def running(loop: Loop) -> Loop:
    """One that is connected and has made a pass."""
    loop.pulse.connected()
    loop.makes_a_pass()
    return loop


def test_one_that_waits_for_ray_is_alive_and_says_what_it_waits_for(loop: Loop) -> None:
    loop.pulse.starting("waiting for Ray: it has not started yet")
    loop.now += 3600
    assert loop.pulse.alive() == Health(ok=True, facts={"status": "starting", "reasons": []})
    assert not loop.ready().ok
    assert loop.ready().facts["status"] == "starting"
    assert loop.ready().facts["reasons"] == ["waiting for Ray: it has not started yet"]


def test_one_that_is_connected_is_ready_after_its_first_good_pass(loop: Loop) -> None:
    loop.pulse.connected()
    assert loop.ready().facts["reasons"] == ["no pass has ended well yet"]
    loop.makes_a_pass("git fetch failed")
    assert loop.ready().facts["reasons"] == ["git fetch failed"]
    loop.makes_a_pass()
    assert loop.ready().ok


def test_a_leader_and_one_that_waits_are_both_ready_and_say_which_they_are(running: Loop) -> None:
    assert running.ready() == Health(ok=True, facts={**running.ready().facts, "status": "standby", "token": None})
    running.leadership.tend()
    assert running.ready() == Health(ok=True, facts={**running.ready().facts, "status": "leader", "token": 1})


def test_a_passing_trouble_does_not_take_its_readiness_and_a_lasting_one_does(running: Loop) -> None:
    running.makes_a_pass("Serve does not answer")
    assert running.ready().ok
    assert running.ready().facts["trouble"] == "Serve does not answer"
    running.now += 2 * INTERVAL_S + STALE_S + 1
    running.pulse.beat()
    running.makes_a_pass("Serve does not answer")
    assert running.ready().facts["reasons"] == ["Serve does not answer"]
    assert running.pulse.alive().ok


def test_a_leader_that_cannot_renew_is_not_ready(running: Loop) -> None:
    running.leadership.tend()
    running.now += 8
    assert running.ready().facts["reasons"] == ["the lease could not be renewed in time"]


def test_a_pass_that_hangs_is_no_sign_of_life(running: Loop) -> None:
    running.pulse.pass_began()
    for _ in range(int(PASS_LIMIT_S)):
        running.now += 1
        running.pulse.beat()
        assert running.pulse.alive().ok
        assert not running.pulse.is_hung()
    running.now += 1
    assert running.pulse.is_hung()
    assert not running.pulse.alive().ok


def test_a_scheduler_that_begins_no_pass_is_no_sign_of_life(running: Loop) -> None:
    running.now += 2 * INTERVAL_S + STALE_S + 1
    running.pulse.beat()
    assert running.pulse.alive().facts["reasons"] == ["no pass has begun for 71 s"]


def test_a_watch_that_stands_still_is_no_sign_of_life(running: Loop) -> None:
    running.now += 61
    running.makes_a_pass()
    assert running.pulse.alive().facts["reasons"] == ["the watch has been still for 61 s"]


class Served:
    """A probe server on a port that the kernel chose."""

    def __init__(self) -> None:
        listener = tcp_socket("127.0.0.1", 0)
        self.host, self.port = listener.getsockname()
        self.ok = True
        self.server = ProbeServer(listener, {"/healthz": lambda: Health(self.ok, {"status": "so"})})

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.server.stop()


def test_a_probe_is_answered_in_json(served: Served) -> None:
    status, body = served.ask("GET", "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "so"})
    served.ok = False
    assert served.ask("GET", "/healthz")[0] == 503
    assert served.ask("HEAD", "/healthz") == (503, b"")
    assert served.ask("GET", "/other")[0] == 404
    assert served.ask("POST", "/healthz")[0] == 501


def test_clients_that_say_nothing_do_not_keep_a_probe_from_its_answer(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(CLIENTS - 1):
            stack.enter_context(socket.create_connection((served.host, served.port)))
        assert served.ask("GET", "/healthz")[0] == 200


def test_a_line_without_end_is_cut_off(served: Served) -> None:
    with socket.create_connection((served.host, served.port), timeout=20) as client:
        client.sendall(b"GET /" + b"a" * 70_000)
        assert client.recv(100).startswith(b"HTTP/1.0 414")


def test_systemd_is_told_every_five_seconds(tmp_path: Path) -> None:
    now = [0.0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "notify")}, lambda: now[0])
        for _ in range(11):
            watchdog.tell()
            now[0] += 1
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def test_without_systemd_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Watchdog({}).tell()
    Watchdog({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell()
    Watchdog({"NOTIFY_SOCKET": "@argus-nobody-listens"}).tell()
