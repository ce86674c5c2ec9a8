"""A Serve in memory: deployments with replicas that have process ids, loads that take a step, versions that break."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from reconciler.core.entities import App, Cluster, Deployment, Health, Observation, Workload
from reconciler.errors import RuntimeUnreachable


@dataclass(slots=True)
class _Replica:
    pid: int
    version: str
    running: bool = False


@dataclass(slots=True)
class _Model:
    workload: Workload
    replicas: list[_Replica] = field(default_factory=list)
    failed: bool = False


class MemoryRuntime:
    """`ports.Runtime` in memory. Time passes in `step`; a workload whose folder is in `broken` never comes up."""

    def __init__(self, total_gpus: int = 8) -> None:
        """Begin with a cluster of `total_gpus` and no application."""
        self.total_gpus = total_gpus
        self.broken: set[str] = set()
        self.down = False
        self.applies = 0
        self.app: App | None = None
        self._models: dict[str, _Model] = {}
        self._leaving: dict[str, _Model] = {}
        self._pids: Iterator[int] = itertools.count(1)

    def observe(self) -> Observation:
        """Keep `ports.Runtime.observe`."""
        self._reach()
        used = sum(m.workload.gpus_per_replica * len(m.replicas) for m in self._models.values())
        cluster = Cluster(self.total_gpus, self.total_gpus - used)
        if self.app is None:
            return Observation(None, "", {}, cluster)
        deployments = {key: self._deployment(key, model) for key, model in self._models.items()}
        for key, model in self._leaving.items():
            deployments[key] = replace(self._deployment(key, model), health=Health.STOPPING, version=None)
        return Observation("RUNNING", "", deployments, cluster)

    def apply(self, app: App) -> None:
        """Keep `ports.Runtime.apply`."""
        self._reach()
        self.applies += 1
        self.app = app
        for key in self._models.keys() - app.workloads.keys():
            self._leaving[key] = self._models.pop(key)
        for key, workload in app.workloads.items():
            model = self._models.setdefault(key, _Model(workload))
            if model.workload.version != workload.version:
                model.failed = False
            model.workload = workload

    def step(self) -> None:
        """Let a moment pass: what leaves is gone, what stops stops, and what starts comes up or fails."""
        self._leaving.clear()
        for model in self._models.values():
            self._step(model)

    def crash(self) -> None:
        """Lose everything, as when Ray's head dies and comes back."""
        self.app = None
        self._models.clear()
        self._leaving.clear()

    def pids(self, model_key: str) -> frozenset[int]:
        """Give the processes that answer for a model now."""
        model = self._models.get(model_key)
        return frozenset(r.pid for r in model.replicas if r.running) if model else frozenset()

    def _step(self, model: _Model) -> None:
        wanted = model.workload
        for replica in model.replicas:
            if replica.version == wanted.version and not replica.running and not model.failed:
                replica.running = wanted.source_path not in self.broken
                model.failed = not replica.running
        new = [r for r in model.replicas if r.version == wanted.version and (r.running or not model.failed)]
        old = [r for r in model.replicas if r.version != wanted.version]
        up = sum(r.running for r in new)
        keep = max(0, wanted.num_replicas - up) if wanted.surge else 0
        missing = 0 if model.failed else wanted.num_replicas - len(new)
        started = [_Replica(next(self._pids), wanted.version) for _ in range(missing)]
        model.replicas = new[: wanted.num_replicas] + started + old[:keep]

    def _deployment(self, key: str, model: _Model) -> Deployment:
        running = sum(r.running for r in model.replicas)
        current = sum(r.running and r.version == model.workload.version for r in model.replicas)
        health = Health.HEALTHY if current >= model.workload.num_replicas else Health.STARTING
        return Deployment(
            model_key=key,
            version=model.workload.version,
            health=Health.FAILED if model.failed else health,
            target_replicas=model.workload.num_replicas,
            running=running,
            starting=len(model.replicas) - running,
            stopping=0,
            message="the engine found no weights in its folder" if model.failed else "",
            phase="loading" if running < len(model.replicas) and not model.failed else None,
        )

    def _reach(self) -> None:
        if self.down:
            raise RuntimeUnreachable("Ray does not answer")
