"""A Serve in memory: replicas with process ids that need room, loads that take a step, versions that break.

It replaces replicas as Serve 2.60 does (`_private/deployment_state.py`): with a surge, an old one stops whenever one
more than the wanted number runs; without, a fifth of them, at least one, stops and is then replaced. Like Serve, it
starts what it was asked to, whether there is room or not: a replica without room waits for it for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from reconciler.core.entities import App, Cluster, Deployment, Health, Observation, Phase, Workload
from reconciler.errors import RuntimeUnreachable


class _Is(Enum):
    PENDING = "pending"  # without its GPUs
    LOADING = "loading"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(slots=True)
class _Replica:
    pid: int
    version: str
    gpus: int
    state: _Is = _Is.PENDING


@dataclass(slots=True)
class _Model:
    workload: Workload
    replicas: list[_Replica] = field(default_factory=list)
    failed: bool = False

    def count(self, *states: _Is) -> int:
        return sum(replica.state in states for replica in self.replicas)


class MemoryRuntime:
    """`ports.Runtime` in memory. Time passes in `step`; a workload whose folder is in `broken` never comes up.

    `other_gpus` are held by others on the same Ray. While `streams_go_on`, replicas that stop do not end.
    """

    def __init__(self, total_gpus: int = 8) -> None:
        """Begin with a cluster of `total_gpus` and no application."""
        self.total_gpus = total_gpus
        self.other_gpus = 0
        self.broken: set[str] = set()
        self.down = False
        self.streams_go_on = False
        self.applies = 0
        self.root = "root"
        self.session = 1
        self.app: App | None = None
        self._held_root = ""
        self._models: dict[str, _Model] = {}
        self._leaving: dict[str, _Model] = {}
        self._pids: Iterator[int] = itertools.count(1)

    def observe(self) -> Observation:
        """Keep `ports.Runtime.observe`."""
        self._reach()
        cluster = Cluster(self.total_gpus, self._free())
        if self.app is None:
            return Observation(None, "", {}, cluster, root=self.root, session=str(self.session))
        deployments = {key: self._deployment(key, model) for key, model in self._models.items()}
        for key, model in self._leaving.items():
            deployments[key] = replace(self._deployment(key, model), health=Health.STOPPING, version=None)
        is_current = self._held_root == self.root
        return Observation("RUNNING", "", deployments, cluster, is_current, self.root, str(self.session))

    def apply(self, app: App) -> None:
        """Keep `ports.Runtime.apply`."""
        self._reach()
        self.applies += 1
        self.app = app
        self._held_root = self.root
        self._hold(app)

    def _hold(self, app: App) -> None:
        for key in self._models.keys() - app.workloads.keys():
            gone = self._leaving[key] = self._models.pop(key)
            gone.replicas = [replica for replica in gone.replicas if replica.state is not _Is.PENDING]
            for replica in gone.replicas:
                replica.state = _Is.STOPPING
        for key, workload in app.workloads.items():
            model = self._models.setdefault(key, _Model(workload))
            if model.workload.version != workload.version:
                model.failed = False
            model.workload = workload

    def step(self) -> None:
        """Let a moment pass: what stops is gone, what loads comes up or fails, what is missing starts where it fits."""
        if not self.streams_go_on:
            self._leaving.clear()
        for model in self._models.values():
            self._step(model)
        for replica in itertools.chain.from_iterable(model.replicas for model in self._models.values()):
            if replica.state is _Is.PENDING and replica.gpus <= self._free():
                replica.state = _Is.LOADING

    def crash(self) -> None:
        """Lose everything, as when Ray's head dies and comes back."""
        self.session += 1
        self.app = None
        self._models.clear()
        self._leaving.clear()

    def tamper(self, *workloads: Workload) -> None:
        """Be somebody else who makes the application hold exactly these, by another `serve.run` of its name."""
        self._hold(App({workload.model_key: workload for workload in workloads}))

    def replace_root(self) -> None:
        """Be somebody else who puts a root of their own into the application."""
        self._held_root = "somebody else's"

    def delete_app(self) -> None:
        """Be somebody else who deletes the application; what is in it stops as it does when it is taken out."""
        self.tamper()
        self.app = None

    def held(self) -> tuple[Workload, ...]:
        """Give what the application holds now."""
        return tuple(model.workload for model in self._models.values())

    def pids(self, model_key: str) -> frozenset[int]:
        """Give the processes that answer for a model now."""
        model = self._models.get(model_key)
        return frozenset(r.pid for r in model.replicas if r.state is _Is.RUNNING) if model else frozenset()

    def _free(self) -> int:
        models = itertools.chain(self._models.values(), self._leaving.values())
        held = sum(r.gpus for model in models for r in model.replicas if r.state is not _Is.PENDING)
        return self.total_gpus - self.other_gpus - held

    def _step(self, model: _Model) -> None:
        wanted = model.workload
        if not self.streams_go_on:
            model.replicas = [replica for replica in model.replicas if replica.state is not _Is.STOPPING]
        for replica in model.replicas:
            if replica.state is _Is.LOADING and replica.version == wanted.version:
                model.failed = wanted.source_path in self.broken
                replica.state = _Is.STOPPING if model.failed else _Is.RUNNING
        if model.failed:  # what is left of the old version goes on
            for replica in model.replicas:
                if replica.version == wanted.version and replica.state is not _Is.RUNNING:
                    self._stop(model, replica)
            return
        old = [r for r in model.replicas if r.version != wanted.version and r.state is not _Is.STOPPING]
        new = [r for r in model.replicas if r.version == wanted.version and r.state is not _Is.STOPPING]
        goes = self._surplus(model, old) if wanted.surge else self._outdated(model, old, new)
        missing, there = wanted.num_replicas - len(new), len(old) + len(new)
        may_be = 2 * wanted.num_replicas if wanted.surge and old else wanted.num_replicas + len(goes)
        for replica in goes:
            self._stop(model, replica)
        for replica in _last(new, -missing):
            self._stop(model, replica)
        for _ in range(min(missing, may_be - there)):
            model.replicas.append(_Replica(next(self._pids), wanted.version, wanted.gpus_per_replica))

    def _surplus(self, model: _Model, old: list[_Replica]) -> list[_Replica]:
        """Say which old replicas a surge may do without: those that do not run, and what runs beyond the number."""
        surplus = max(0, model.count(_Is.RUNNING) - model.workload.num_replicas)
        running = [replica for replica in old if replica.state is _Is.RUNNING]
        return [replica for replica in old if replica.state is not _Is.RUNNING] + running[:surplus]

    def _outdated(self, model: _Model, old: list[_Replica], new: list[_Replica]) -> list[_Replica]:
        """Say which old replicas go before new ones come: so many that a fifth, at least one, is on its way."""
        wanted = model.workload.num_replicas
        old = sorted(old, key=lambda replica: replica.state is _Is.RUNNING)
        if wanted < len(old):
            return old[: len(old) - wanted]
        up = sum(replica.state is _Is.RUNNING for replica in new)
        pending = wanted - up - len(old)
        return old[: max(max(wanted // 5, 1) - pending, 0)]

    def _stop(self, model: _Model, replica: _Replica) -> None:
        if replica.state is _Is.PENDING:
            model.replicas.remove(replica)
        else:
            replica.state = _Is.STOPPING

    def _deployment(self, key: str, model: _Model) -> Deployment:
        running = model.count(_Is.RUNNING)
        current = sum(r.state is _Is.RUNNING and r.version == model.workload.version for r in model.replicas)
        is_up = current == running == model.workload.num_replicas
        health = Health.HEALTHY if is_up else Health.STARTING
        return Deployment(
            model_key=key,
            version=model.workload.version,
            health=Health.FAILED if model.failed else health,
            target_replicas=model.workload.num_replicas,
            running=running,
            starting=model.count(_Is.PENDING, _Is.LOADING),
            stopping=model.count(_Is.STOPPING),
            message="the engine found no weights in its folder" if model.failed else "",
            phase=self._phase(model),
        )

    def _phase(self, model: _Model) -> Phase | None:
        if model.count(_Is.PENDING):
            return "scheduling"
        return "loading" if model.count(_Is.LOADING) else None

    def _reach(self) -> None:
        if self.down:
            raise RuntimeUnreachable("Ray does not answer")


def _last(replicas: list[_Replica], number: int) -> list[_Replica]:
    return replicas[len(replicas) - number :] if number > 0 else []
