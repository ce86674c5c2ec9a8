"""Fronts as the contract suite runs them: real, on a port, before toy replicas."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from reconciler.core.routes import Route, RoutingTable, Target, Unavailable
from reconciler.errors import LedgerUnreachable
from reconciler.front import config, files, router, sync
from reconciler.front.admin import Admin, FrontUnreachable
from reconciler.settings import Settings
from tests.contracts.ray_rig import ray_rig
from tests.contracts.toy_replica import LIMIT_S, Replica, wait_for
from tests.processes import free_port

SECRET = "a-secret-of-the-fronts"
LOADING = Unavailable("model_loading", "is still loading", 10)


class FrontRig(Protocol):
    """A front at work. Replicas are the test's own; they know it by `SECRET`."""

    base_url: str
    max_body_bytes: int
    server_header: str | None
    """What the front calls itself in its answers."""

    def show(self, *routes: Route) -> None:
        """Give the front a table of exactly these routes, and wait until it answers by it."""
        ...


def route(model_id: str, *replicas: Replica, key: str = "", unavailable: Unavailable = LOADING) -> Route:
    """Give a name with these replicas behind it; each one's answers are stamped `commit-of-<replica>`."""
    targets = tuple(
        Target(replica.name, replica.address, f"commit-of-{replica.name}")
        for replica in sorted(replicas, key=lambda replica: replica.name)
    )
    return Route(model_id, key or key_of(model_id), "alice", 1_767_702_600, unavailable, targets)


def key_of(model_id: str) -> str:
    return f"svc-{model_id}"


def table(*routes: Route, secret: str = SECRET) -> RoutingTable:
    return RoutingTable(secret, tuple(sorted(routes, key=lambda route: route.model_id)))


class MemoryBoard:
    """A board to be read, in memory; it is out of reach while `away`."""

    def __init__(self) -> None:
        self.away = False
        self._put: tuple[int, RoutingTable] | None = None

    def publish(self, table: RoutingTable) -> None:
        self._put = ((self._put[0] if self._put else 0) + 1, table)

    def read(self, known: int) -> tuple[int, RoutingTable] | None:
        if self.away:
            raise LedgerUnreachable("the board is away")
        return None if self._put is None or self._put[0] == known else self._put


class HaproxyRig:
    """HAProxy with its router, as `argus up` runs them. The router is a thread of this process."""

    server_header: str | None = None

    def __init__(self, home: Path, **serving: Any) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        haproxy = {"max_models": 16, "metrics_port": self.metrics_port, **serving.pop("haproxy", {})}
        self.settings = Settings.model_validate(
            {"home": home, "serving": {"port": self.port, "haproxy": haproxy, **serving}}
        )
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.max_body_bytes = self.settings.serving.max_body_bytes
        self.folder = files.folder(home)
        self.board = MemoryBoard()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._router: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        for part in config.PARTS:
            self.start_haproxy(part)
        self.start_router()

    def start_haproxy(self, part: config.Part = config.FRONT) -> None:
        argv = config.prepare(self.settings.home, self.settings.serving, part)
        with (self.settings.home / f"{part}.log").open("ab") as log:
            self.processes[part] = subprocess.Popen(argv, env={}, stdout=log, stderr=log)
        if part == config.FRONT:
            wait_for(lambda: self._answers("/healthz"), "HAProxy starts")
        else:
            wait_for((self.folder / files.BODIES_SOCKET).exists, "HAProxy starts")

    def kill_haproxy(self, part: config.Part = config.FRONT) -> None:
        self.processes[part].kill()
        self.processes[part].wait(LIMIT_S)

    def start_router(self) -> None:
        self._stop = threading.Event()
        self._router = threading.Thread(target=router.run, args=(self.settings, self.board, self._stop), daemon=True)
        self._router.start()
        wait_for(lambda: self._answers("/readyz", 200, 503), "the router starts")

    def stop_router(self) -> None:
        self._stop.set()
        if self._router:
            self._router.join(LIMIT_S)

    def close(self) -> None:
        self.stop_router()
        for process in self.processes.values():
            process.kill()
            process.wait(LIMIT_S)

    def show(self, *routes: Route) -> None:
        self.show_table(table(*routes))

    def show_table(self, shown: RoutingTable) -> None:
        self.board.publish(shown)
        wait_for(lambda: self.holds(shown), "HAProxy holds the table")

    def holds(self, shown: RoutingTable) -> bool:
        """Say whether HAProxy leads every name of the table, and no other, to its own replicas."""
        try:
            with Admin(self.folder).talk() as talk:
                held = talk.held()
        except FrontUnreachable:
            return False
        leads = {name: lead.split("/") for name, lead in held.maps[sync.MODELS_MAP].items()}
        wanted = {entry.model_id: entry for entry in shown.routes if entry.targets}
        if leads.keys() != wanted.keys() or held.maps[sync.SECRET_MAP] != {sync.SECRET_KEY: shown.secret}:
            return False
        takes: dict[str, set[tuple[str, str]]] = {}
        for place, server in held.servers.items():
            if server.takes_requests:
                takes.setdefault(f"m{place.slot}", set()).add((place.name, server.address))
        return all(
            key == wanted[name].model_key
            and takes.get(slot) == {(target.name, target.address) for target in wanted[name].targets}
            for name, (slot, key) in leads.items()
        ) and self._desk_lists([entry.model_id for entry in shown.routes if entry.targets])

    def log(self) -> str:
        return "".join((self.settings.home / f"{part}.log").read_text() for part in config.PARTS)

    def _desk_lists(self, names: Sequence[str]) -> bool:
        answer = httpx.get(f"{self.base_url}/v1/models")
        return answer.status_code == 200 and [model["id"] for model in answer.json()["data"]] == list(names)

    def _answers(self, path: str, *statuses: int) -> bool:
        try:
            answer = httpx.get(f"{self.base_url}{path}")
        except httpx.TransportError:
            return False
        by_the_desk = path != "/readyz" or "error" not in answer.json()
        return answer.status_code in (statuses or (200,)) and by_the_desk


@contextmanager
def haproxy_rig(home: Path, **serving: Any) -> Iterator[HaproxyRig]:
    rig = HaproxyRig(home, **serving)
    home.mkdir(parents=True, exist_ok=True)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


RIGS: dict[str, Callable[[Path], AbstractContextManager[FrontRig]]] = {
    "haproxy": haproxy_rig,
    "ray": lambda home: ray_rig(home, SECRET),
}
"""Every front there is, by its name in `serving.front`."""
