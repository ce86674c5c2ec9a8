"""A model server that only prints, as an engine does: itself, and through a process of its own that ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from ray import serve

from reconciler.core.entities import Workload
from reconciler.core.root_cause import explain, explain_end
from reconciler.shell.below import end_below
from reconciler.shell.engine_log import ReplicaOutput
from reconciler.shell.load_watch import LoadEnded, LoadWatch, Pace
from reconciler.shell.phases import is_stopped

CORE = """
import os, sys
print("(EngineCore pid=1) ValueError: no room for a KV cache", flush=True)
os.write(2, b"core \\xff dumped\\n")
os.abort()
"""


class Printer:
    def __init__(self, source_path: str, model_key: str) -> None:
        if "reconciler" in sys.modules:
            raise RuntimeError("a replica needed Argus itself: something was not sent by value")
        output = ReplicaOutput()
        output.announce(model_key)
        print("\x1b[32mstarting\x1b[0m the engine", flush=True)
        if source_path.endswith("broken"):
            subprocess.run([sys.executable, "-c", CORE], check=False)
            raise RuntimeError(explain("Engine core initialization failed. See root cause above.", output.lines()))
        if source_path.endswith("hangs"):
            self._hang(output, 0.5)
        if source_path.endswith("unwanted"):
            self._hang(output, 3600)
        if source_path.endswith("killed"):
            print("last words, without an end", end="", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        print("ready", flush=True)

    def _hang(self, output: ReplicaOutput, limit_s: float) -> None:
        core = subprocess.Popen(["sleep", "1000"])
        core.send_signal(signal.SIGSTOP)
        try:
            with LoadWatch(Pace(limit_s, look_s=0.1), output.printed, end_below, is_stopped):
                core.wait()
        except LoadEnded as why:
            raise RuntimeError(explain_end(str(why), output.lines())) from None


def deploy(workload: Workload) -> Any:
    deployment = serve.deployment(
        Printer,
        name=workload.model_key,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=600,
        ray_actor_options={"num_cpus": 0, "num_gpus": workload.gpus_per_replica},
    )
    return deployment.bind(workload.source_path, workload.model_key)
