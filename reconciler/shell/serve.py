"""The runtime port on a real Ray cluster: one Serve application, one deployment a model, one ingress.

`serve.run` as it is documented restarts every model whenever one is added: it gives each deployment a random version.
Here each deployment carries its own (`Workload.version`), and the ingress never changes but in its `user_config`. The
private names of Ray that this takes are all in this file and in `ingress`; `tests/contracts/test_serve_runtime.py`
proves by process id that they do what is said here.
"""

from __future__ import annotations

import concurrent.futures
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import ray
from ray import cloudpickle, serve
from ray.exceptions import RayActorError, RayError
from ray.serve.api import RunTarget, run_many
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from reconciler.core.entities import App, Cluster, Deployment, Health, Observation, Workload
from reconciler.errors import RuntimeLost, RuntimeUnreachable
from reconciler.names import APP_NAME
from reconciler.settings import ServingSettings
from reconciler.shell import ingress

log = logging.getLogger(__name__)

T = TypeVar("T")

INGRESS = "argus-ingress"
INGRESS_VERSION = "1"
"""Raise it when the ingress's code changes: running platforms then replace the process."""

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 60.0

_HEALTH = {
    "UPDATING": Health.STARTING,
    "UPSCALING": Health.STARTING,
    "DOWNSCALING": Health.STARTING,
    "HEALTHY": Health.HEALTHY,
    "UNHEALTHY": Health.UNHEALTHY,
    "DEPLOY_FAILED": Health.FAILED,
}


class ServeRuntime:
    """`ports.Runtime` on Ray Serve. One per process: Ray's connection is the process's own.

    Every call runs on a thread of its own with a time limit. A call that is late leaves the connection in an unknown
    state, so all later calls are refused (RuntimeLost): the process is to be started again.
    """

    def __init__(
        self,
        serving: ServingSettings,
        address: Callable[[], str | None],
        deploy: Callable[[Workload], Any],
        by_value: Sequence[ModuleType] = (),
    ) -> None:
        """Remember where the cluster is; `connect` goes there.

        Args:
            serving: Where the ingress listens, and how many replicas it has.
            address: Says where Ray's GCS is, host:port or `auto` (the cluster that Ray's own environment names);
                None while nobody knows. Asked anew at each `connect`.
            deploy: Gives a workload as a bound Serve deployment (`llm.deployer`).
            by_value: Modules that are sent to the cluster with what is deployed, so that nodes need not have them.
        """
        self._serving = serving
        self._address = address
        self._deploy = deploy
        self._by_value = (*by_value, ingress)
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="serve")
        self._lost = False

    def connect(self) -> None:
        """Connect to Ray and start Serve's controller and proxy where they do not run. Raises RuntimeUnreachable."""
        address = self._listener()
        self._call(lambda: self._connect(address), CONNECT_TIMEOUT_S)

    def observe(self) -> Observation:
        """Say what runs (`ports.Runtime.observe`)."""
        return self._call(self._observe, CALL_TIMEOUT_S)

    def apply(self, app: App) -> None:
        """Make the application hold exactly `app` (`ports.Runtime.apply`)."""
        self._call(lambda: self._apply(app), CALL_TIMEOUT_S)

    def close(self) -> None:
        """Disconnect. What runs in Serve goes on: its actors are detached."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if not self._lost:
            ray.shutdown()

    def _call(self, work: Callable[[], T], timeout_s: float) -> T:
        if self._lost:
            raise RuntimeLost("the connection to Ray is lost; the reconciler has to start again")
        future = self._threads.submit(work)
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            self._lost = True
            raise RuntimeLost(f"Ray did not answer within {timeout_s:.0f} s") from error
        except (RayActorError, RayServeException) as error:
            # Serve's controller is away. Ray starts it again, and it remembers what it runs.
            raise RuntimeUnreachable(f"Serve does not answer: {error}") from error
        except (RayError, ConnectionError, OSError) as error:
            self._lost = True
            raise RuntimeLost(f"Ray does not answer: {type(error).__name__}: {error}") from error

    def _listener(self) -> str:
        """Refuse early where nothing listens: Ray's own client would end this process after a minute of trying."""
        address = self._address()
        if address is None:
            raise RuntimeUnreachable("Ray has not started yet")
        if address != "auto":
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=2).close()
            except (OSError, ValueError) as error:
                raise RuntimeUnreachable(f"no Ray cluster answers at {address}: {error}") from error
        return address

    def _connect(self, address: str) -> None:
        ray.init(address=address, namespace="argus", log_to_driver=False, configure_logging=False)
        for module in self._by_value:
            cloudpickle.register_pickle_by_value(module)
        serve.start(http_options=HTTPOptions(host=self._serving.host, port=self._serving.port, request_timeout_s=None))

    def _observe(self) -> Observation:
        # In this order: a status that is older than the version beside it would call a new version healthy because
        # the old one was. The other way round is harmless: a report on an older version counts for nothing.
        client = _get_global_client()
        infos = ray.get(client._controller.list_deployments_internal.remote(), timeout=CALL_TIMEOUT_S)
        targets = {id_.name: info for id_, (info, _route) in infos.items() if id_.app_name == APP_NAME}
        # What `serve.status` is made of. That call builds a model of it that pickles a class for each deployment.
        app = client.get_serve_details()["applications"].get(APP_NAME)
        resources, free = ray.cluster_resources(), ray.available_resources()
        cluster = Cluster(total_gpus=resources.get("GPU", 0), free_gpus=free.get("GPU", 0))
        if app is None:
            return Observation(None, "", None, {}, cluster)
        catalogue = targets.get(INGRESS)
        return Observation(
            app_status=_word(app["status"]),
            app_message=str(app["message"]),
            catalogue_digest=(catalogue.deployment_config.user_config or {}).get("digest") if catalogue else None,
            deployments={
                name: _deployment(name, details, targets.get(name))
                for name, details in app["deployments"].items()
                if name != INGRESS
            },
            cluster=cluster,
        )

    def _apply(self, app: App) -> None:
        models = {key: self._model(workload) for key, workload in app.workloads.items()}
        target = RunTarget(self._ingress(app, models), name=APP_NAME, route_prefix="/")
        # `serve.run` is this very call, and then waits without a limit until everything runs.
        run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        log.info("applied %d models", len(models))

    def _model(self, workload: Workload) -> Any:
        return _versioned(self._deploy(workload), workload.version)

    def _ingress(self, app: App, models: dict[str, Any]) -> Any:
        catalogue = [entry.as_json() for entry in app.catalogue]
        deployment = serve.deployment(
            ingress.ingress_class(),
            name=INGRESS,
            num_replicas=self._serving.ingress_replicas,
            max_ongoing_requests=100_000,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=self._serving.llm.drain_timeout_s,
            user_config={"digest": app.catalogue_digest, "models": catalogue},
        )
        return _versioned(deployment.bind(APP_NAME, models), INGRESS_VERSION)


def _word(status: Any) -> str:
    """Give a status as Serve's documents spell it, whether it comes as text or as an enum."""
    return str(getattr(status, "value", status))


def _versioned(bound: Any, version: str) -> Any:
    """Give a bound deployment a version of its own: without one, Serve draws a random one at each apply."""
    bound._bound_deployment = bound._bound_deployment.options(version=version, _internal=True)
    return bound


def _deployment(name: str, details: dict[str, Any], target: Any | None) -> Deployment:
    states = Counter(_word(replica["state"]) for replica in details["replicas"])
    return Deployment(
        model_key=name,
        version=target.version if target else None,
        health=_HEALTH[_word(details["status"])] if target else Health.STOPPING,
        target_replicas=target.deployment_config.num_replicas if target else 0,
        running=states["RUNNING"],
        starting=states["STARTING"],
        stopping=states["STOPPING"],
        message=str(details["message"]),
    )
