"""Ray's front as the contract suite runs it: Serve's proxy and our ingress, before the test's own replicas."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from reconciler.core.entities import App
from reconciler.core.routes import Route, RoutingTable, Unavailable
from reconciler.settings import ServingSettings
from tests.contracts.toy_replica import wait_for
from tests.processes import free_port, running_ray

START_S = 120.0


class RayRig:
    """A Serve application without models. The ingress does not ask whose replicas a table names."""

    server_header: str | None = "uvicorn"  # Serve's, which cannot be told not to

    def __init__(self, address: str, secret: str) -> None:
        from reconciler.shell.kv_board import KvBoard
        from reconciler.shell.serve import ServeRuntime

        serving = ServingSettings(port=free_port())
        self.base_url = f"http://127.0.0.1:{serving.port}"
        self.max_body_bytes = serving.max_body_bytes
        self.runtime = ServeRuntime(serving, lambda: address, lambda _workload: None, front="ray")
        self._secret = secret
        self._board = KvBoard()
        self._numbers = itertools.count()
        self.runtime.connect()
        self.runtime.apply(App({}))
        wait_for(lambda: self._status("/healthz") == 200, "the ingress answers", START_S)

    def show(self, *routes: Route) -> None:
        # A table may differ from the last one in nothing that can be asked for. One that holds only a name of its own
        # comes between, and when that name is gone the wanted table is there.
        name = f"table-{next(self._numbers)}"
        between = Route(name, name, "nobody", 0, Unavailable("model_loading", "is no model", 1), ())
        path = f"/v1/models/{name}"
        self._publish(between)
        wait_for(lambda: self._status(path) == 503, "the ingress has the table between")
        self._publish(*routes)
        wait_for(lambda: self._status(path) == 404, "the ingress has the table")

    def _publish(self, *routes: Route) -> None:
        self._board.publish(RoutingTable(self._secret, tuple(sorted(routes, key=lambda one: one.model_id))))

    def _status(self, path: str) -> int | None:
        try:
            return httpx.get(f"{self.base_url}{path}", timeout=START_S).status_code
        except httpx.TransportError:
            return None


@contextmanager
def ray_rig(home: Path, secret: str) -> Iterator[RayRig]:
    with running_ray(home, gpus=1) as address:
        rig = RayRig(address, secret)
        yield rig
        rig.runtime.close()
