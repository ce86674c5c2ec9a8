"""Promises of the allow list of engine arguments."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from reconciler.engine_args import (
    DENIED,
    NONE_GIVEN,
    Allowed,
    Denied,
    EngineKwargs,
    Quantization,
    Reason,
    ReasoningParser,
    ToolCallParser,
    classify,
    contradiction,
    given,
    why_not,
)

TOP_LEVEL = list(EngineKwargs.model_fields)


def accepts(name: str, value: object) -> bool:
    try:
        EngineKwargs.model_validate({name: value})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("max_model_len", 1, 10_000_000), ("max_num_seqs", 1, 1024), ("max_num_batched_tokens", 1, 262_144),
        ("seed", 0, 2**32 - 1), ("max_logprobs", 0, 20), ("stream_interval", 1, 32),
        ("tensor_parallel_size", 1, 1024), ("pipeline_parallel_size", 1, 1024),
    ],
)  # fmt: skip
def test_whole_numbers_have_bounds(name: str, least: int, most: int) -> None:
    assert accepts(name, least)
    assert accepts(name, most)
    wrongs: list[object] = [least - 1, most + 1, 10**40, float(most), 1.5, True, str(most), [most], {}, None, math.nan]
    for wrong in wrongs:
        assert not accepts(name, wrong), wrong


def test_a_whole_number_serves_as_a_fraction_and_a_boolean_does_not() -> None:
    assert given(EngineKwargs.model_validate({"override_generation_config": {"temperature": 1}})) == {
        "override_generation_config": {"temperature": 1.0}
    }
    assert not accepts("override_generation_config", {"temperature": True})


@pytest.mark.parametrize("value", [0.10, 0.5, 0.95])
def test_gpu_memory_within_bounds_is_accepted(value: float) -> None:
    assert accepts("gpu_memory_utilization", value)


@pytest.mark.parametrize("value", [0.09, 0.96, 1, 0, -0.5, True, "0.9", math.nan, math.inf, -math.inf, 10**40, None])
def test_gpu_memory_outside_its_bounds_is_refused(value: object) -> None:
    assert not accepts("gpu_memory_utilization", value)


@pytest.mark.parametrize(
    "name",
    [
        "enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "disable_sliding_window",
        "async_scheduling", "enable_expert_parallel", "enable_auto_tool_choice",
    ],
)  # fmt: skip
def test_a_switch_is_true_or_false_and_nothing_else(name: str) -> None:
    assert accepts(name, True)
    assert accepts(name, False)
    wrongs: list[object] = [1, 0, "true", "yes", None, [], 1.0]
    for wrong in wrongs:
        assert not accepts(name, wrong), wrong


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dtype", ["auto", "bfloat16", "float16", "float32"]),
        ("kv_cache_dtype", ["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16"]),
        ("scheduling_policy", ["fcfs", "priority"]),
        ("runner", ["auto", "generate", "pooling"]),
        ("convert", ["auto", "none", "embed", "classify"]),
        ("quantization", list(get_args(Quantization))),
        ("reasoning_parser", list(get_args(ReasoningParser))),
        ("tool_call_parser", list(get_args(ToolCallParser))),
    ],
)
def test_a_choice_is_one_of_its_names(name: str, values: list[str]) -> None:
    assert all(accepts(name, value) for value in values)
    for wrong in ("AUTO", "", "my_module.MyClass", "/private/x.py", 1, True, None, [values[0]]):
        assert not accepts(name, wrong), wrong


def test_a_block_has_one_of_five_sizes() -> None:
    assert all(accepts("block_size", size) for size in (8, 16, 32, 64, 128))
    for wrong in (0, 1, 7, 256, 8.0, True, "16", None, 10**40):
        assert not accepts("block_size", wrong), wrong


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_mm_per_prompt", {"image": 0, "video": 8, "audio": 1}),
        ("limit_mm_per_prompt", {}),
        (
            "override_generation_config",
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "max_new_tokens": 9},
        ),
        ("override_generation_config", {"repetition_penalty": 1.1, "presence_penalty": -2, "frequency_penalty": 2}),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}),
        ("speculative_config", {"method": "mtp"}),
    ],
)
def test_mappings_hold_what_is_listed(name: str, value: dict[str, Any]) -> None:
    assert given(EngineKwargs.model_validate({name: value})) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_mm_per_prompt", {"image": 9}), ("limit_mm_per_prompt", {"image": {"count": 1, "width": 99999}}),
        ("limit_mm_per_prompt", {"smell": 1}), ("limit_mm_per_prompt", {"image": True}),
        ("limit_mm_per_prompt", {"image": None}), ("limit_mm_per_prompt", 3), ("limit_mm_per_prompt", []),
        ("override_generation_config", {"temperature": "hot"}), ("override_generation_config", {"top_p": 0}),
        ("override_generation_config", {"temperature": math.inf}), ("override_generation_config", {"top_k": 1.5}),
        ("override_generation_config", {"stop": ["x"]}), ("override_generation_config", {"chat_template": "{{x}}"}),
        ("speculative_config", {}), ("speculative_config", {"method": "eagle", "num_speculative_tokens": 2}),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 9}),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 2, "model": "evil/code"}),
        ("speculative_config", {"method": "custom_class", "num_speculative_tokens": 2}),
    ],
)  # fmt: skip
def test_mappings_hold_nothing_else(name: str, value: object) -> None:
    assert not accepts(name, value)


def test_only_what_was_given_is_handed_on() -> None:
    assert given(NONE_GIVEN) == {}
    assert given(EngineKwargs(seed=0, enforce_eager=False)) == {"enforce_eager": False, "seed": 0}


def test_arguments_compare_and_hash_by_value() -> None:
    one = EngineKwargs.model_validate({"limit_mm_per_prompt": {"image": 1}, "seed": 1})
    two = EngineKwargs.model_validate({"seed": 1, "limit_mm_per_prompt": {"image": 1}})
    assert one == two
    assert hash(one) == hash(two)
    assert one != EngineKwargs(seed=1)


def test_arguments_survive_json() -> None:
    kwargs = EngineKwargs.model_validate({"speculative_config": {"method": "mtp"}, "gpu_memory_utilization": 0.5})
    assert EngineKwargs.model_validate_json(kwargs.model_dump_json()) == kwargs


@pytest.mark.parametrize(
    ("kwargs", "gpus"),
    [
        ({}, 8), ({"tensor_parallel_size": 8}, 8), ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 8),
        ({"pipeline_parallel_size": 2}, 2), ({"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}, 1),
        ({"enable_auto_tool_choice": False}, 1), ({"speculative_config": {"method": "mtp"}}, 1),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 1, "prompt_lookup_min": 2}}, 1),
    ],
)  # fmt: skip
def test_arguments_that_fit_together_are_accepted(kwargs: dict[str, Any], gpus: int) -> None:
    assert contradiction(EngineKwargs.model_validate(kwargs), gpus) is None


@pytest.mark.parametrize(
    ("kwargs", "gpus", "field", "words"),
    [
        ({"tensor_parallel_size": 2}, 1, "tensor_parallel_size", "2 x 1 = 2, but gpus_per_replica is 1"),
        ({"tensor_parallel_size": 1}, 2, "tensor_parallel_size", "1 x 1 = 1, but gpus_per_replica is 2"),
        ({"pipeline_parallel_size": 3}, 2, "pipeline_parallel_size", "1 x 3 = 3"),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 2, "tensor_parallel_size", "2 x 2 = 4"),
        ({"enable_auto_tool_choice": True}, 1, "enable_auto_tool_choice", "needs tool_call_parser"),
        ({"speculative_config": {"method": "ngram"}}, 1, "speculative_config", "num_speculative_tokens is missing"),
        (
            {"speculative_config": {"method": "mtp", "prompt_lookup_max": 2}},
            1, "speculative_config.prompt_lookup_max", "for method ngram only",
        ),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 1, "prompt_lookup_min": 3,
                                    "prompt_lookup_max": 2}},
            1, "speculative_config.prompt_lookup_min", "is 3 and prompt_lookup_max is 2",
        ),
    ],
)  # fmt: skip
def test_arguments_that_contradict_each_other_are_named(
    kwargs: dict[str, Any], gpus: int, field: str, words: str
) -> None:
    found = contradiction(EngineKwargs.model_validate(kwargs), gpus)
    assert found is not None
    assert found[0] == field
    assert words in found[1]


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_what_is_on_the_list_is_classified_as_allowed(name: str) -> None:
    verdict = classify(name)
    assert isinstance(verdict, Allowed)
    assert verdict.values


@pytest.mark.parametrize(
    ("reason", "names"),
    [
        (
            Reason.IMPORTS_CODE,
            "worker_cls worker_extension_cls scheduler_cls distributed_executor_backend logits_processors "
            "compilation_config kv_transfer_config reasoning_parser_plugin tool_parser_plugin io_processor_plugin "
            "middleware speculative_config.model",
        ),
        (
            Reason.IDENTITY,
            "trust_remote_code code_revision model_impl hf_overrides tokenizer hf_config_path model served_model_name "
            "hf_token",
        ),
        (Reason.LOADER, "load_format model_loader_extra_config enable_prompt_embeds"),
        (
            Reason.FILES,
            "allowed_local_media_path download_dir chat_template lora_modules mm_encoder_fp8_scale_path "
            "profiler_config ssl_keyfile ssl_ca_certs uds",
        ),
        (
            Reason.NETWORK,
            "otlp_traces_endpoint kv_events_config tool_server master_addr host port api_key allowed_origins",
        ),
        (
            Reason.RESOURCES,
            "device_ids numa_bind numa_bind_nodes data_parallel_size cpu_offload_gb kv_cache_memory_bytes "
            "num_gpu_blocks_override",
        ),
        (Reason.PRIVACY, "enable_log_requests enable_log_outputs"),
        (
            Reason.PLATFORM,
            "allowed_media_domains generation_config graceful_shutdown_timeout_s max_ongoing_requests",
        ),
    ],
)
def test_what_is_denied_is_denied_with_its_reason(reason: Reason, names: str) -> None:
    for name in names.split():
        assert classify(name) == Denied(reason), name
        assert str(reason) in why_not(name)


def test_an_unknown_argument_is_denied_with_the_list_and_a_suggestion() -> None:
    assert classify("max_model_length") == Denied(Reason.UNKNOWN)
    message = why_not("max_model_length")
    assert "not an argument that Argus knows" in message
    assert "did you mean max_model_len?" in message
    assert all(name in message for name in TOP_LEVEL)
    assert "did you mean max_model_len?" in why_not("--max-model-len")
    assert "did you mean" not in why_not("zzzz")
    assert "allowed: image, video, audio" in why_not("limit_mm_per_prompt.smell")


def test_no_pattern_denies_what_is_on_the_list() -> None:
    # `classify` asks the list first, so that a pattern grown too wide would stay unseen.
    from fnmatch import fnmatchcase

    patterns = [pattern for _, patterns in DENIED for pattern in patterns]
    assert [(name, p) for name in TOP_LEVEL for p in patterns if fnmatchcase(name, p)] == []


def test_the_json_schema_offers_no_null() -> None:
    schema = EngineKwargs.model_json_schema()
    assert schema["properties"]["max_model_len"] == {
        "description": "Tokens of prompt and answer together.", "examples": [8192], "maximum": 10_000_000, "minimum": 1,
        "title": "Max Model Len", "type": "integer",
    }  # fmt: skip
    assert "null" not in str(schema)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_frozen_lists_are_those_of_the_installed_vllm() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs
    from vllm.model_executor.layers.quantization import DEPRECATED_QUANTIZATION_METHODS, QuantizationMethods
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    # The Literal, not the list: plugins may add to the list.
    assert set(get_args(Quantization)) == set(get_args(QuantizationMethods)) - set(DEPRECATED_QUANTIZATION_METHODS)
    assert set(get_args(ReasoningParser)) == set(ReasoningParserManager.list_registered())
    assert set(get_args(ToolCallParser)) == set(ToolParserManager.list_registered())
    fields = {field.name for args in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(args)}
    assert set(TOP_LEVEL) <= fields


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_every_allowed_choice_is_one_that_vllm_knows() -> None:
    from vllm.config.cache import CacheDType
    from vllm.config.model import ConvertOption, ModelDType, RunnerOption
    from vllm.config.scheduler import SchedulerPolicy
    from vllm.config.speculative import SpeculativeMethod

    def flat(literal: Any) -> set[object]:
        return {value for arg in get_args(literal) for value in (flat(arg) if get_args(arg) else {arg})}

    properties = EngineKwargs.model_json_schema()["properties"]
    for name, known in (
        ("dtype", ModelDType), ("kv_cache_dtype", CacheDType), ("runner", RunnerOption), ("convert", ConvertOption),
        ("scheduling_policy", SchedulerPolicy),
    ):  # fmt: skip
        assert set(properties[name]["enum"]) <= flat(known), name
    assert {"ngram", "mtp"} <= flat(SpeculativeMethod)
