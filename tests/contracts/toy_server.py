"""A model server that starts in a moment: what Serve does to processes is the same for it as for an engine."""

from __future__ import annotations

from typing import Any

from ray import serve

from reconciler.core.entities import Workload


class Toy:
    def __init__(self, source_path: str) -> None:
        if source_path.endswith("broken"):
            raise RuntimeError("the engine found no weights in its folder")


def deploy(workload: Workload) -> Any:
    deployment = serve.deployment(
        Toy,
        name=workload.model_key,
        num_replicas=workload.num_replicas,
        max_surge_percent=100 if workload.surge else 0,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 0, "num_gpus": workload.gpus_per_replica},
    )
    return deployment.bind(workload.source_path)
