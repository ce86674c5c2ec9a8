"""The road to the token: bare vLLM, Ray's own OpenAI ingress, and Argus with three models loaded, on the same model.

    .venv/bin/python bench/data_plane.py [--seconds 5] [--rounds 3] [--clients 1 8 32 128] [--front haproxy|ray]

Two phases in one go, because all engines at once would not fit a small machine: bare beside Ray's ingress, then bare
beside Argus. In a phase both sides are measured in turn, round by round; a ratio is of medians within its phase.
Nothing else should run on the machine. After each phase: the CPU time that one request takes, by process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cpu
import httpx
import load
from first_chat import free_port

MODEL = "bench"
ENGINE = {"max_model_len": 1024, "max_num_seqs": 128}
CLIENTS = [1, 8, 32, 128]
PROFILED = 32
NEGLIGIBLE_MS = 0.005
KINDS = {"32 tokens, streamed": (32, True), "1 token": (1, False)}
LIMIT_S = 400

# What Argus gives every engine on a CPU (reconciler/shell/llm.py), for the other two as well.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

RAY_APP = """
import json, sys, time
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.llm import LLMConfig, build_openai_app
port, folder, name, engine, environment = sys.argv[1:]
config = LLMConfig(
    model_loading_config={"model_id": name, "model_source": folder},
    accelerator_config={"kind": "cpu"},
    placement_group_config={"bundles": [{"CPU": 0.5}]},
    engine_kwargs={"enforce_eager": True, "dtype": "bfloat16", **json.loads(engine)},
    runtime_env={"env_vars": json.loads(environment)},
    log_engine_metrics=False,
)
ray.init(num_cpus=8, include_dashboard=False)
serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(port), request_timeout_s=None))
serve.run(build_openai_app({"llm_configs": [config]}), blocking=False)
time.sleep(100000)
"""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: where it listens, the model's name there, and the process it all hangs on."""

    name: str
    port: int
    model: str
    pid: int = 0


@contextmanager
def child(argv: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the block lasts; it is asked to end by SIGTERM."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env={**os.environ, **environ}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, f"{what}: not in {LIMIT_S} s"
        time.sleep(0.5)


def answers(side: Side) -> bool:
    """Say whether the side answers a chat."""
    body = {"model": side.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        url = f"http://127.0.0.1:{side.port}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def bare(folder: Path, logs: Path) -> Iterator[Side]:
    """Run vLLM's own server."""
    port = free_port()
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in ENGINE.items()]
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", f"--port={port}"]
    argv += [f"--model={folder}", f"--served-model-name={MODEL}", "--enforce-eager", "--dtype=bfloat16", *flags]
    argv += ["--disable-log-stats", "--disable-uvicorn-access-log"]
    with child(argv, logs / "bare.log", **ENVIRONMENT) as process:
        side = Side("bare vLLM", port, MODEL, process.pid)
        until(lambda: answers(side), side.name)
        yield side


@contextmanager
def ray_ingress(folder: Path, logs: Path) -> Iterator[Side]:
    """Run Ray's own OpenAI app, as its documentation shows it."""
    port = free_port()
    argv = [sys.executable, "-c", RAY_APP, str(port), str(folder), MODEL, json.dumps(ENGINE), json.dumps(ENVIRONMENT)]
    with child(argv, logs / "ray.log", RAY_USAGE_STATS_ENABLED="0") as process:
        side = Side("Ray's ingress", port, MODEL, process.pid)
        until(lambda: answers(side), side.name)
        yield side


@contextmanager
def argus(home: Path, logs: Path, front: str) -> Iterator[Side]:
    """Run Argus with three models, each an engine of its own; the load goes to the first."""
    config = logs / "argus.yaml"
    config.write_text(f"serving: {{front: {front}}}\npaths: {{private_root: private}}\n")
    api, port = free_port(), free_port()
    argv = [sys.executable, "-m", "argus", "up", "--no-demo", "--config", str(config), "--home", str(home)]
    argv += ["--api-port", str(api), "--openai-port", str(port)]
    with child(argv, logs / "argus.log", ARGUS_METRICS_PORT=str(free_port())) as process:
        until(lambda: "is ready" in (logs / "argus.log").read_text(), "argus up")
        token = (home / "admin-token").read_text().strip()

        def call(method: str, path: str, who: str, body: dict[str, object] | None = None) -> Any:
            headers = {"Authorization": f"Bearer {who}"}
            url = f"http://127.0.0.1:{api}/api/v2{path}"
            return httpx.request(method, url, json=body, headers=headers, timeout=30).raise_for_status().json()

        call("POST", "/users", token, {"user_id": "bench"})
        user = call("POST", "/users/bench/tokens", token)["token"]
        sides = []
        for number in range(3):
            spec = {"model_id": f"m{number}", "model_source": "/private/hf/demo", "engine_kwargs": ENGINE}
            key = call("POST", "/serve/models", user, spec)["model_key"]
            name = call("GET", f"/serve/models/{key}", user)["model"]["model_id"]
            sides.append(Side("Argus, three models", port, name, process.pid))
        until(lambda: all(answers(side) for side in sides), "three models")
        yield sides[0]


def compare(left: Side, right: Side, numbers: list[int], rounds: int, seconds: float) -> None:
    """Measure both in turn and print the table of medians."""
    print(f"\n| clients | answer | {left.name} | {right.name} | ratio | first event: {left.name} | {right.name} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, (tokens, stream) in KINDS.items():
        contents = {side: load.request(side.port, side.model, tokens, stream=stream) for side in (left, right)}
        for clients in numbers:
            for side in (left, right):
                load.run(side.port, contents[side], clients, 1.0)
            results: dict[Side, list[load.Result]] = {left: [], right: []}
            for _ in range(rounds):
                for side in (left, right):
                    result = load.run(side.port, contents[side], clients, seconds)
                    assert not result.failures, f"{side.name}: {result.failures[0]}"
                    results[side].append(result)
            rate = {side: statistics.median(each.rate for each in results[side]) for side in results}
            first = {side: statistics.median(each.first_ms for each in results[side]) for side in results}
            print(
                f"| {clients} | {kind} | {rate[left]:.1f}/s | {rate[right]:.1f}/s | {rate[right] / rate[left]:.2f} "
                f"| {first[left]:.1f} ms | {first[right]:.1f} ms |",
                flush=True,
            )


def profile(sides: tuple[Side, Side], seconds: float) -> None:
    """Print what one request costs in CPU time, and in which process, with 32 clients."""
    for kind, (tokens, stream) in KINDS.items():
        print(f"\nCPU of one request in ms, {PROFILED} clients, {kind}:")
        for side in sides:
            before = cpu.used(side.pid)
            result = load.run(side.port, load.request(side.port, side.model, tokens, stream=stream), PROFILED, seconds)
            spent = cpu.used(side.pid) - before
            each = {name: seconds * 1000 / max(1, result.requests) for name, seconds in spent.items()}
            each = {name: ms for name, ms in each.items() if ms > NEGLIGIBLE_MS}
            parts = ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(each.items(), key=lambda item: -item[1]))
            print(f"- {side.name}: {sum(each.values()):.2f} = {parts}", flush=True)


def main() -> None:
    """Run both phases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--front", choices=["haproxy", "ray"], default="haproxy")
    parser.add_argument("--only", choices=["ray", "argus"], help="measure one phase")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        logs = Path(scratch)
        folder = logs / "home" / "private" / "hf" / "demo"
        folder.parent.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "argus.demo_model", str(folder)], check=True)
        with bare(folder, logs) as base:
            if given.only != "argus":
                with ray_ingress(folder, logs) as other:
                    compare(base, other, given.clients, given.rounds, given.seconds)
                    profile((base, other), 2 * given.seconds)
            if given.only != "ray":
                with argus(logs / "home", logs, given.front) as other:
                    compare(base, other, given.clients, given.rounds, given.seconds)
                    profile((base, other), 2 * given.seconds)


if __name__ == "__main__":
    main()
