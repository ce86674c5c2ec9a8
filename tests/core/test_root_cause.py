"""Why an engine did not start, from outputs that vLLM 0.29 really gave (`engine_outputs/`, shortened tracebacks)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.root_cause import LONGEST, NOT_STARTED, explain, explain_end, told

OUTPUTS = Path(__file__).parent / "engine_outputs"
ABOVE = "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
OUT_OF_MEMORY = "most likely out of memory, which the kernel or the container's limit answers so"


def output(name: str) -> list[str]:
    return (OUTPUTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "kv_cache_too_small",
            "ValueError: To serve at least one request with the model's max seq len (16777216), (4.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the "
            "estimated maximum model length is 4194176. Try increasing `gpu_memory_utilization` (which also controls "
            "CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine. See "
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details.",
        ),
        (
            "kv_cache_larger_than_memory",
            "ValueError: Available memory on node 0 (19.57/23.54 GiB) on kv cache allocation is less than requested "
            "memory for kv (9000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU "
            "memory used by other processes.",
        ),
        (
            "truncated_weights",
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
            "file not fully covered",
        ),
        ("no_weights", "RuntimeError: Cannot find any model weights with `/private/hf/noweights`"),
        ("wrong_shape", "RuntimeError: start (0) + length (256) exceeds dimension size (128)."),
        (
            "out_of_memory",
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 256000000000 bytes. Error code 12 (Cannot allocate memory)",
        ),
    ],
)
def test_the_cause_is_found_in_what_the_engine_printed(name: str, words: str) -> None:
    assert explain(ABOVE, output(name)) == NOT_STARTED + words


def test_a_worker_that_was_killed_is_said_in_words_with_what_it_did_last() -> None:
    said = explain(ABOVE, output("worker_killed")).splitlines()
    assert said[0] == f"{NOT_STARTED}a worker of the engine was killed (SIGKILL): {OUT_OF_MEMORY}"
    assert said[1] == "Its last lines:"
    assert said[-1] == "GPU KV cache size: 4,194,304 tokens, Maximum concurrency for 4,096 tokens per request: 1024.00x"


def test_the_kernels_own_count_makes_it_certain() -> None:
    said = explain(ABOVE, output("worker_killed"), kernel_killed=True)
    assert "was killed (SIGKILL): out of memory, the kernel has killed processes on this node meanwhile" in said


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (9, f"was killed (SIGKILL): {OUT_OF_MEMORY}"),
        (11, "crashed (SIGSEGV)"),
        (7, "crashed (SIGBUS): most likely shared memory (/dev/shm) is too small"),
        (31, "ended by signal 31"),
    ],
)
def test_an_engine_core_that_a_signal_ended_is_said_in_words(number: int, words: str) -> None:
    raised = (
        f"Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': -{number}}}"
    )
    assert explain(raised, []) == f"{NOT_STARTED}the engine's process {words}"


VALIDATION = """\
Failed to create vLLM engine config: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len \
[type=value_error, input_value=ArgsKwargs((), {'model': ...one, 'x': None}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error"""


@pytest.mark.parametrize(
    ("raised", "printed", "words"),
    [
        (VALIDATION, [], "User-specified max_model_len (999999) is greater than the derived max_model_len"),
        ("Ray's store holds no secret", ["ValueError: an old one, long past"], "Ray's store holds no secret"),
        (ABOVE, [], ABOVE),
        ("", [], "it gave no reason"),
        (ABOVE, ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"],
         "what():  std::bad_alloc"),
        (ABOVE, ["(EngineCore pid=7) RuntimeError: Worker failed with error 'CUDA out of memory.', please check the "
                 "stack trace above for the root cause"], "CUDA out of memory."),
        (ABOVE, ["(EngineCore pid=7) (RayWorkerProc pid=9, ip=10.0.0.2) torch.OutOfMemoryError: CUDA out of memory. "
                 "Tried to allocate 2.00 GiB.", "(EngineCore pid=7) ray.exceptions.RayTaskError(OutOfMemoryError): "
                 "see stack trace for root cause"],
         "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        (ABOVE, ["(EngineCore pid=7) ERROR 11-24 06:16:57 [core.py:1374] ValueError: first line",
                 "(EngineCore pid=7) ERROR 11-24 06:16:57 [core.py:1374]   second line",
                 "(EngineCore pid=7) INFO 11-24 06:16:57 [core.py:99] another record"],
         "ValueError: first line\n  second line"),
    ],
)  # fmt: skip
def test_what_is_raised_counts_where_it_says_something_itself(raised: str, printed: list[str], words: str) -> None:
    assert explain(raised, printed) == NOT_STARTED + words


def test_an_engine_that_was_ended_is_told_with_what_it_said_last() -> None:
    config = "(EngineCore pid=7) INFO 11-24 06:16:57 [core.py:99] with config: " + "x" * 3000
    shard = "(EngineCore pid=7) INFO 11-24 06:16:58 [core.py:99] Loading shards: 1 of 30"
    killed = "RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}"
    said = explain_end("it hangs", [config, shard, killed]).splitlines()
    assert said[:2] == [NOT_STARTED + "it hangs", "Its last lines:"]
    assert said[2].startswith("with config: xxx")
    assert len(said[2]) == 200
    assert said[3:] == ["Loading shards: 1 of 30"]


def test_serves_report_gives_back_the_explanation_alone() -> None:
    words = explain(ABOVE, output("no_weights"))
    report = (
        "The deployment failed to start 2 times in a row. See controller logs for details. Error:\nTraceback (most "
        f"recent call last):\n  File replica.py\nRuntimeError: {words}\n"
    )
    assert told(report) == words
    assert told("A replica's health check failed.") == "A replica's health check failed."
    assert told("") == ""


@given(st.text(max_size=400), st.lists(st.text(max_size=300), max_size=12), st.booleans())
def test_an_explanation_is_short_whatever_was_printed(raised: str, printed: list[str], kernel_killed: bool) -> None:
    said = explain(raised, printed, kernel_killed=kernel_killed)
    assert said.startswith(NOT_STARTED)
    assert len(said) <= LONGEST
