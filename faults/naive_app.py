"""Ray Serve LLM as its documentation shows it: `serve.run(build_openai_app(...))`, called again for each change.

    python -m faults.naive_app PORT FOLDER

Each line on standard input is a JSON object, model name to engine arguments: all models that there should be. The line
`ok` answers it when `serve.run` has come back.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""What Argus gives every engine on a CPU (`reconciler.shell.llm`), for Ray's own as well."""


def main(port: int, folder: str) -> None:
    """Run until standard input ends."""
    # What Ray and vLLM print goes to standard error: standard output is for answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.llm import LLMConfig, build_openai_app

    def config(name: str, engine: dict[str, Any]) -> Any:
        return LLMConfig(
            model_loading_config={"model_id": name, "model_source": folder},
            accelerator_config={"kind": "cpu"},
            placement_group_config={"bundles": [{"CPU": 0.5}]},
            engine_kwargs={"enforce_eager": True, "dtype": "bfloat16", **engine},
            runtime_env={"env_vars": ENVIRONMENT},
            log_engine_metrics=False,
        )

    ray.init(num_cpus=8, include_dashboard=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port, request_timeout_s=None))
    for line in sys.stdin:
        serve.run(build_openai_app({"llm_configs": [config(*each) for each in json.loads(line).items()]}))
        print("ok", file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
