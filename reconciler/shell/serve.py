"""The runtime port on a real Ray cluster: one Serve application, one deployment a model, and a root that holds them.

`serve.run` as it is documented restarts every model whenever one is added: it gives each deployment a random version.
Here each deployment carries its own (`Workload.version`), and the root one that says nothing of models. The private
names of Ray that this takes are all in this file, `replicas`, `phases`, `unplaced`, `ray_workers` and `kv_board`;
`tests/contracts/test_runtime.py` proves by process id that they do what is said here.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar

import ray
from ray import cloudpickle, serve
from ray.exceptions import RayActorError, RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE, SERVE_PROXY_NAME
from ray.serve._private.utils import format_actor_name
from ray.serve.api import RunTarget, run_many
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from reconciler.core import answers, routes, wire
from reconciler.core.entities import App, Cluster, Deployment, Health, Observation, Workload
from reconciler.errors import RuntimeLost, RuntimeUnreachable
from reconciler.names import APP_NAME
from reconciler.settings import ServingSettings
from reconciler.shell import front_secret, ingress, kv_board, phases
from reconciler.shell.ingress import EmptyRoot, Ingress
from reconciler.shell.kv_board import KvReader
from reconciler.shell.quick_pickle import quick_pickling
from reconciler.shell.unplaced import end_unplaced

log = logging.getLogger(__name__)

T = TypeVar("T")

FrontKind: TypeAlias = Literal["haproxy", "ray"]

ROOT = "argus-ingress"
INGRESS_VERSION = "2"
"""Raise it when the ingress's code changes: running platforms then replace the process."""

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 60.0
CONTROLLER_GONE_S = 20.0
DRAIN_LOOK_S = 0.2

BY_VALUE = (wire, routes, answers, ingress, kv_board, front_secret)
"""Modules of ours that the root is made of: nodes have Ray, not Argus."""

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
        *,
        front: FrontKind,
        follow: Callable[[Iterable[str]], None] = lambda _keys: None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        """Remember where the cluster is; `connect` goes there.

        Args:
            serving: Where Ray's front listens, and how many processes it has.
            address: Says where Ray's GCS is, host:port or `auto` (the cluster that Ray's own environment names);
                None while nobody knows. Asked anew at each `connect`.
            deploy: Gives a workload as a bound Serve deployment (`llm.deployer`).
            by_value: Modules that are sent to the cluster with what is deployed, so that nodes need not have them.
            front: Who takes users' requests. With `haproxy` Serve listens nowhere and the root has no process.
            follow: Is told the keys of all models that are deployed, whenever they were applied or observed
                (`ReplicaWatch.follow`).
            confirm: Is called at the last moment before Serve is told anything, and may refuse by raising.
        """
        self._serving = serving
        self._address = address
        self._deploy = deploy
        self._by_value = (*BY_VALUE, *by_value)
        self._front = front
        self._follow = follow
        self._confirm = confirm
        self._secret: str | None = None
        self._built: dict[str, tuple[Workload, Any]] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="serve")
        self._lost = False

    @property
    def secret(self) -> str:
        """What replicas know fronts by. Raises RuntimeUnreachable before `connect`."""
        if self._secret is None:
            raise RuntimeUnreachable("the secret between fronts and replicas is in Ray, which is not connected yet")
        return self._secret

    def connect(self) -> None:
        """Connect to Ray, and start Serve where it does not run as the front needs it. Raises RuntimeUnreachable."""
        address = self._listener()
        self._call(lambda: self._connect(address), CONNECT_TIMEOUT_S)

    def observe(self) -> Observation:
        """Say what runs (`ports.Runtime.observe`)."""
        return self._call(lambda: _unless_shut_down(self._observe), CALL_TIMEOUT_S)

    def apply(self, app: App) -> None:
        """Make the application hold exactly `app` (`ports.Runtime.apply`)."""
        self._call(lambda: _unless_shut_down(lambda: self._apply(app)), CALL_TIMEOUT_S)

    def drain(self, limit_s: float) -> bool:
        """Take the application away, and wait until Ray's front has ended the answers that it has begun.

        Its processes end with their last answer. Gives False where one is left after `limit_s` seconds. Raises
        RuntimeUnreachable.
        """
        until = time.monotonic() + limit_s
        self._call(lambda: serve.delete(APP_NAME, _blocking=False), CALL_TIMEOUT_S)
        while ROOT in self._call(_targets, CALL_TIMEOUT_S):
            if time.monotonic() > until:
                return False
            time.sleep(DRAIN_LOOK_S)
        return True

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
        except RuntimeLost:
            self._lost = True
            raise
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
        if not ray.is_initialized():
            ray.init(address=address, namespace="argus", log_to_driver=False, configure_logging=False)
        for module in self._by_value:
            cloudpickle.register_pickle_by_value(module)
        self._secret = front_secret.ensure_front_secret()
        self._start_serve()
        if not self._listens_as_wanted():
            self._start_serve_anew()

    def _start_serve(self) -> None:
        serve.start(
            proxy_location=ProxyLocation.EveryNode if self._front == "ray" else ProxyLocation.Disabled,
            http_options=HTTPOptions(host=self._serving.host, port=self._serving.port, request_timeout_s=None),
        )

    def _listens_as_wanted(self) -> bool:
        controller = _get_global_client()._controller
        asked = [controller.get_proxy_location.remote(), controller.get_http_config.remote()]
        location, options = ray.get(asked, timeout=CALL_TIMEOUT_S)
        if self._front == "haproxy":
            return bool(location == ProxyLocation.Disabled)
        wanted = (ProxyLocation.EveryNode, self._serving.host, self._serving.port)
        return (location, options.host, options.port) == wanted

    def _start_serve_anew(self) -> None:
        """Put a new controller in the place of one that listens otherwise: that is settled when a controller starts.

        The new one takes over the replicas that run. Serve is left alone where it holds applications of others.
        """
        client = _get_global_client()
        if others := set(client.get_serve_details()["applications"]) - {APP_NAME}:
            log.warning("Serve listens as it was started for %s, not as serving.front wants", ", ".join(sorted(others)))
            return
        controller = client._controller
        proxies = ray.get(controller.get_proxies.remote(), timeout=CALL_TIMEOUT_S)
        for actor in (controller, *proxies.values()):
            ray.kill(actor, no_restart=True)
        names = {SERVE_CONTROLLER_NAME, *(format_actor_name(SERVE_PROXY_NAME, node) for node in proxies)}
        deadline = time.monotonic() + CONTROLLER_GONE_S
        while any(_is_named(name) for name in names):
            if time.monotonic() > deadline:
                raise RuntimeUnreachable(f"Serve's old controller is not gone after {CONTROLLER_GONE_S:.0f} s")
            time.sleep(0.1)
        log.info("starting Serve's controller anew, for the front '%s'", self._front)
        self._start_serve()

    def _observe(self) -> Observation:
        # In this order: a status that is older than the version beside it would call a new version healthy because
        # the old one was. The other way round is harmless: a report on an older version counts for nothing.
        targets = _targets()
        # What `serve.status` is made of. That call builds a model of it that pickles a class for each deployment.
        app = _get_global_client().get_serve_details()["applications"].get(APP_NAME)
        resources, free = ray.cluster_resources(), ray.available_resources()
        cluster = Cluster(total_gpus=resources.get("GPU", 0), free_gpus=free.get("GPU", 0))
        if app is None:
            self._follow(())
            return Observation(None, "", {}, cluster, root=self._root_version, session=self._session)
        models = {name: details for name, details in app["deployments"].items() if name != ROOT}
        phase = phases.furthest({name: _starting(details) for name, details in models.items()})
        deployments = {
            name: _deployment(name, details, targets.get(name), phase.get(name)) for name, details in models.items()
        }
        # Serve's details leave out what was taken away a moment ago, before its controller has begun to stop it. To
        # call that gone would have it come back, if it is wanted again at once, with the replicas that it had.
        leaving = targets.keys() - models.keys() - {ROOT}
        end_unplaced(leaving)
        for name in leaving:
            deployments[name] = Deployment(
                model_key=name, version=None, health=Health.STOPPING, target_replicas=0, running=0, starting=0,
                stopping=0, message="",
            )  # fmt: skip
        self._follow(deployments)
        return Observation(
            app_status=_word(app["status"]),
            app_message=str(app["message"]),
            deployments=deployments,
            cluster=cluster,
            root_is_current=ROOT in targets and targets[ROOT].version == self._root_version,
            root=self._root_version,
            session=self._session,
        )

    @property
    def _session(self) -> str:
        """Name the life of the store in which Serve keeps its applications: our secret lives and dies with it too."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:16]

    def _apply(self, app: App) -> None:
        began = time.monotonic()
        with quick_pickling():
            self._tell(app, began)
        self._follow(app.workloads)

    def _tell(self, app: App, began: float) -> None:
        self._built = {key: self._model(key, workload) for key, workload in app.workloads.items()}
        models = {key: bound for key, (_, bound) in self._built.items()}
        target = RunTarget(self._root(models), name=APP_NAME, route_prefix="/" if self._front == "ray" else None)
        self._confirm()
        told = time.monotonic()
        # `serve.run` is this very call, and then waits without a limit until everything runs.
        run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        done = time.monotonic()
        log.info(
            "applied %d models: %.3f s to build them, %.3f s to tell Serve", len(models), told - began, done - told
        )

    def _model(self, key: str, workload: Workload) -> tuple[Workload, Any]:
        """Give a workload with its deployment: the one that it was last applied with, where it is the same."""
        kept = self._built.get(key)
        # Two workloads that differ in their surge alone count as equal: it decides how, not what.
        if kept is not None and (kept[0], kept[0].surge) == (workload, workload.surge):
            return kept
        return workload, _versioned(self._deploy(workload), workload.version)

    def _root(self, models: dict[str, Any]) -> Any:
        """Give the deployment that Serve wants an application to begin with. The models are bound under it."""
        return self._ingress(models) if self._front == "ray" else self._empty_root(models)

    @property
    def _root_version(self) -> str:
        if self._front == "haproxy":
            return "empty"
        return f"ray-{INGRESS_VERSION}-{self._serving.max_body_bytes}-{self._serving.idle_timeout_s:g}"

    def _ingress(self, models: dict[str, Any]) -> Any:
        deployment = serve.deployment(
            ingress_class(self._serving.max_body_bytes, self._serving.idle_timeout_s),
            name=ROOT,
            num_replicas=self._serving.ingress_replicas,
            max_ongoing_requests=100_000,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=self._serving.llm.drain_timeout_s,
        )
        return _versioned(deployment.bind(models), self._root_version)

    def _empty_root(self, models: dict[str, Any]) -> Any:
        deployment = serve.deployment(
            EmptyRoot,
            name=ROOT,
            # Serve refuses `num_replicas=0`, and means nothing else by this.
            autoscaling_config={"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1, "downscale_delay_s": 0},
            ray_actor_options={"num_cpus": 0},
        )
        return _versioned(deployment.bind(models), self._root_version)


def ingress_class(max_body_bytes: int, idle_timeout_s: float) -> type[Any]:
    """Give Ray's front as a class for `serve.deployment`. Its constructor takes the models, and does not read them."""

    def build() -> Ingress:
        return Ingress(KvReader().news, max_body_bytes, idle_timeout_s)

    return serve.ingress(build)()  # type: ignore[no-any-return]  # Ray ships no types


def _targets() -> dict[str, Any]:
    """Give what Serve is to make of each deployment of ours, also of one that goes, while a replica of it is left."""
    infos = ray.get(_get_global_client()._controller.list_deployments_internal.remote(), timeout=CALL_TIMEOUT_S)
    return {id_.name: info for id_, (info, _route) in infos.items() if id_.app_name == APP_NAME}


def _word(status: Any) -> str:
    """Give a status as Serve's documents spell it, whether it comes as text or as an enum."""
    return str(getattr(status, "value", status))


def _unless_shut_down(work: Callable[[], T]) -> T:
    """Do what needs Serve's controller. Raises RuntimeLost where somebody has shut Serve down, and it will not be back.

    Everything that this process holds of the old controller is dead then; the next process starts Serve as it connects.
    """
    try:
        return work()
    except (RayActorError, RayServeException) as error:
        if _is_named(SERVE_CONTROLLER_NAME):
            raise  # it crashed, and Ray starts it again
        raise RuntimeLost("Serve was shut down by somebody else; the reconciler has to start again") from error


def _is_named(actor: str) -> bool:
    try:
        ray.get_actor(actor, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _versioned(bound: Any, version: str) -> Any:
    """Give a bound deployment a version of its own: without one, Serve draws a random one at each apply."""
    bound._bound_deployment = bound._bound_deployment.options(version=version, _internal=True)
    return bound


def _starting(details: dict[str, Any]) -> list[dict[str, Any]]:
    return [replica for replica in details["replicas"] if _word(replica["state"]) == "STARTING"]


def _deployment(name: str, details: dict[str, Any], target: Any | None, phase: phases.Phase | None) -> Deployment:
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
        phase=phase,
    )
