"""Which of vLLM's arguments a spec may give, of which type and within which bounds. Default: none.

`EngineKwargs` is the allow list; `classify` says of any other name why it is not on it. The lists of names are those of
vLLM 0.29, frozen here because the API's machines have no vLLM; a test compares them with the installed one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

# `quantization`: what vLLM's Literal lists, less what it calls deprecated and refuses without a further flag.
Quantization = Literal[
    "auto_awq", "auto_gptq", "awq", "awq_marlin", "compressed-tensors", "deepseek_v4_fp8", "experts_int8", "fp8",
    "fp8_per_block", "fp8_per_channel", "fp8_per_tensor", "gpt_oss_mxfp4", "gptq", "gptq_marlin", "humming", "inc",
    "int8_per_channel_weight_only", "modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8", "moe_wna16",
    "mxfp4", "mxfp8", "nvfp4_per_token", "online", "quark", "torchao",
]  # fmt: skip

ReasoningParser = Literal[
    "cohere_command3", "cohere_command4", "deepseek_r1", "deepseek_v3", "deepseek_v4", "ernie45", "gemma4", "glm45",
    "glm47", "granite", "holo2", "hunyuan_a13b", "hy_v3", "hy_v4", "inkling", "kimi_k2", "kimi_k3", "ling3", "mimo",
    "minimax_m2", "minimax_m2_append_think", "minimax_m3", "mistral", "muse_glimmer", "nemotron_v3", "olmo3",
    "openai_gptoss", "poolside_v1", "qwen3", "seed_oss", "step3", "step3p5",
]  # fmt: skip

ToolCallParser = Literal[
    "apertus", "cohere_command3", "cohere_command4", "deepseek_v3", "deepseek_v31", "deepseek_v32", "deepseek_v4",
    "dots", "ernie45", "functiongemma", "gemma4", "gigachat3", "glm45", "glm47", "granite", "granite-20b-fc",
    "granite4", "hermes", "hunyuan_a13b", "hy_v3", "hy_v4", "inkling", "internlm", "jamba", "kimi_k2", "kimi_k3",
    "lfm2", "ling3", "llama3_json", "llama4_json", "llama4_pythonic", "longcat", "mimo", "minicpm5", "minimax_m2",
    "minimax_m3", "mistral", "muse_glimmer", "olmo3", "openai", "phi4_mini_json", "poolside_v1", "pythonic",
    "qwen3_coder", "qwen3_xml", "seed_oss", "step3", "step3p5", "xlam",
]  # fmt: skip


def _whole(value: object) -> object:
    # Literal compares with ==, and 8.0 == 8.
    if type(value) is not int:
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _without_null(schema: dict[str, Any]) -> None:
    """Say in a JSON schema what holds for specs: a field is given with a value or not at all."""
    for name, field in schema.get("properties", {}).items():
        if "anyOf" in field:
            kept = next(option for option in field.pop("anyOf") if option.get("type") != "null")
            schema["properties"][name] = {**kept, **{key: field[key] for key in field if key != "default"}}


class _Given(BaseModel):
    """Fields that are given or not. Null stands for neither, and dumping leaves out what was not given."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_without_null
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_null(cls, value: object) -> object:
        if value is None:
            raise PydanticCustomError("missing_value", "Input should not be null")
        return value

    @model_serializer(mode="wrap")
    def _only_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


_PerPrompt = Annotated[int, Field(ge=0, le=8)]


class LimitMmPerPrompt(_Given):
    """How many items of each kind one prompt may bring."""

    image: _PerPrompt | None = None
    video: _PerPrompt | None = None
    audio: _PerPrompt | None = None


class OverrideGenerationConfig(_Given):
    """The sampling that a request gets where it asks for nothing else. Numbers only."""

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None


class SpeculativeConfig(_Given):
    """Speculative decoding without a second model."""

    method: Literal["ngram", "mtp"]
    num_speculative_tokens: Annotated[int, Field(ge=1, le=8)] | None = None
    prompt_lookup_min: Annotated[int, Field(ge=1, le=32)] | None = None
    prompt_lookup_max: Annotated[int, Field(ge=1, le=32)] | None = None


class EngineKwargs(_Given):
    """The arguments of the engine that a spec may give. Each is optional; what is left out is vLLM's own default."""

    max_model_len: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="Tokens of prompt and answer together.", examples=[8192]
    )
    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Requests that one replica works on at once."
    )
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=262_144)] | None = Field(
        default=None, description="Tokens in one step of the engine."
    )
    gpu_memory_utilization: Annotated[float, Field(ge=0.10, le=0.95)] | None = Field(
        default=None, description="The share of each GPU's memory that the engine takes.", examples=[0.9]
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        default=None, description="The type of weights and activations."
    )
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16"] | None = Field(
        default=None, description="The type of the KV cache."
    )
    quantization: Quantization | None = Field(default=None, description="One of vLLM's built-in quantizations.")
    enforce_eager: bool | None = Field(default=None, description="Run without CUDA graphs and compilation.")
    enable_prefix_caching: bool | None = Field(default=None, description="Reuse the KV cache of equal beginnings.")
    enable_chunked_prefill: bool | None = Field(default=None, description="Split long prompts over several steps.")
    disable_sliding_window: bool | None = Field(default=None, description="Ignore the model's sliding window.")
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] | None = Field(
        default=None, description="The seed of sampling."
    )
    block_size: Annotated[Literal[8, 16, 32, 64, 128], BeforeValidator(_whole)] | None = Field(
        default=None, description="Tokens in one block of the KV cache."
    )
    max_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None, description="The most log probabilities that a request may ask for."
    )
    async_scheduling: bool | None = Field(default=None, description="Schedule the next step while one runs.")
    stream_interval: Annotated[int, Field(ge=1, le=32)] | None = Field(
        default=None, description="Tokens in one piece of a streamed answer."
    )
    scheduling_policy: Literal["fcfs", "priority"] | None = Field(
        default=None, description="First come, first served, or by the request's priority."
    )
    runner: Literal["auto", "generate", "pooling"] | None = Field(
        default=None, description="What the model is run for."
    )
    convert: Literal["auto", "none", "embed", "classify"] | None = Field(
        default=None, description="What the model is turned into."
    )
    enable_expert_parallel: bool | None = Field(default=None, description="Spread experts instead of tensors.")
    limit_mm_per_prompt: LimitMmPerPrompt | None = Field(
        default=None, description="Images, videos and audios that one prompt may bring.", examples=[{"image": 2}]
    )
    reasoning_parser: ReasoningParser | None = Field(
        default=None, description="How vLLM tells reasoning from the answer."
    )
    tool_call_parser: ToolCallParser | None = Field(default=None, description="How vLLM finds calls of tools.")
    enable_auto_tool_choice: bool | None = Field(
        default=None, description="Let the model choose tools; needs tool_call_parser."
    )
    override_generation_config: OverrideGenerationConfig | None = Field(
        default=None, description="Sampling where a request asks for nothing else.", examples=[{"temperature": 0.6}]
    )
    speculative_config: SpeculativeConfig | None = Field(
        default=None,
        description="Speculative decoding without a second model.",
        examples=[{"method": "ngram", "num_speculative_tokens": 4}],
    )
    tensor_parallel_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Follows from gpus_per_replica; times pipeline_parallel_size it must equal that."
    )
    pipeline_parallel_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Times tensor_parallel_size it must equal gpus_per_replica."
    )


NONE_GIVEN = EngineKwargs()


def given(kwargs: EngineKwargs) -> dict[str, Any]:
    """Give the arguments that were given, as plain data that the engine takes, in the order of the allow list."""
    return kwargs.model_dump()


def contradiction(kwargs: EngineKwargs, gpus_per_replica: int) -> tuple[str, str] | None:
    """Find arguments that are each allowed and do not fit together: the dotted name and a whole sentence."""
    tensor, pipeline = kwargs.tensor_parallel_size, kwargs.pipeline_parallel_size
    product = (tensor or 1) * (pipeline or 1)
    if (tensor is not None or pipeline is not None) and product != gpus_per_replica:
        name = "tensor_parallel_size" if tensor is not None else "pipeline_parallel_size"
        return name, (
            f"tensor_parallel_size x pipeline_parallel_size is {tensor or 1} x {pipeline or 1} = {product}, but "
            f"gpus_per_replica is {gpus_per_replica}; the two must be equal (leave both sizes out to let the platform "
            "choose them)"
        )
    if kwargs.enable_auto_tool_choice and kwargs.tool_call_parser is None:
        return "enable_auto_tool_choice", "enable_auto_tool_choice needs tool_call_parser: name one, or leave this out"
    return None if kwargs.speculative_config is None else _speculative_contradiction(kwargs.speculative_config)


def _speculative_contradiction(config: SpeculativeConfig) -> tuple[str, str] | None:
    here = "speculative_config"
    least, most = config.prompt_lookup_min, config.prompt_lookup_max
    if config.method == "ngram" and config.num_speculative_tokens is None:
        return here, f"{here}.num_speculative_tokens is missing: with method ngram give a whole number from 1 to 8"
    if config.method != "ngram" and (least is not None or most is not None):
        name = "prompt_lookup_min" if least is not None else "prompt_lookup_max"
        return f"{here}.{name}", f"{here}.{name} is for method ngram only; leave it out with method {config.method}"
    if least is not None and most is not None and least > most:
        return f"{here}.prompt_lookup_min", (
            f"{here}.prompt_lookup_min is {least} and prompt_lookup_max is {most}; the first must not exceed the second"
        )
    return None


class Reason(StrEnum):
    """Why an argument is not offered. The value ends the sentence "it is not allowed because it …"."""

    IMPORTS_CODE = "makes the engine import code by name"
    IDENTITY = "changes which code runs or which model and identity it runs as"
    LOADER = "changes how weights and prompts are loaded"
    FILES = "makes the engine read or write files of the caller's choice"
    NETWORK = "opens or redirects network connections"
    RESOURCES = "takes resources that the platform shares out"
    PRIVACY = "writes users' requests or answers to logs"
    PLATFORM = "is set by the platform"
    UNKNOWN = "is not an argument that Argus knows"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The argument may be given. `values` says what it may be."""

    values: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The argument may not be given."""

    reason: Reason


# Read from top to bottom: the first pattern that matches names the reason. Dots go into the allowed mappings.
DENIED: tuple[tuple[Reason, tuple[str, ...]], ...] = (
    (
        Reason.IMPORTS_CODE,
        (
            "worker_cls", "worker_extension_cls", "scheduler_cls", "distributed_executor_backend", "logits_processors",
            "compilation_config", "kv_transfer_config", "ec_transfer_config", "weight_transfer_config", "*_plugin",
            "middleware", "additional_config", "model_class_overrides", "speculative_config.model", "spec_model",
        ),
    ),
    (
        Reason.IDENTITY,
        (
            "trust_remote_code", "code_revision", "model_impl", "hf_overrides", "tokenizer", "tokenizer_mode",
            "tokenizer_revision", "hf_config_path", "config_format", "model", "model_weights", "revision",
            "served_model_name", "hf_token", "speculative_config.*revision",
        ),
    ),
    (
        Reason.LOADER,
        ("load_format", "model_loader_extra_config", "enable_prompt_embeds", "pt_load_map_location", "ignore_patterns"),
    ),
    (
        Reason.FILES,
        (
            "allowed_local_media_path", "download_dir", "chat_template", "default_chat_template_kwargs",
            "trust_request_chat_template", "lora_modules", "default_mm_loras", "*_scale_path", "*_scale_save_path",
            "profiler_config", "log_config_file", "ssl_*", "uds",
        ),
    ),
    (
        Reason.NETWORK,
        (
            "otlp_traces_endpoint", "kv_events_config", "tool_server", "master_addr", "master_port", "host", "port",
            "api_key", "allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials", "root_path",
            "data_parallel_address", "data_parallel_rpc_port",
        ),
    ),
    (
        Reason.RESOURCES,
        (
            "device_ids", "numa_bind*", "data_parallel_*", "cpu_offload_*", "offload_*", "kv_offloading_*",
            "kv_cache_memory_bytes", "num_gpu_blocks_override", "nnodes", "node_rank",
        ),
    ),
    (Reason.PRIVACY, ("enable_log_*", "max_log_len", "enable_logging_iteration_details")),
    (
        Reason.PLATFORM,
        (
            "allowed_media_domains", "generation_config", "graceful_shutdown_timeout_s", "max_ongoing_requests",
            "stream_batching_interval_ms", "accelerator_type", "disable_log_stats",
        ),
    ),
)  # fmt: skip


def classify(name: str) -> Allowed | Denied:
    """Say of any engine argument whether a spec may give it. Arguments inside a mapping are named with dots."""
    if (values := _values().get(name)) is not None:
        return Allowed(values)
    for reason, patterns in DENIED:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return Denied(reason)
    return Denied(Reason.UNKNOWN)


def why_not(name: str) -> str:
    """Explain to an owner why `name` (dotted, as in `classify`) is not allowed, and what would be."""
    verdict = classify(name)
    reason = verdict.reason if isinstance(verdict, Denied) else Reason.UNKNOWN
    if reason is Reason.UNKNOWN:
        return f"{reason}; {known(name)}"
    return f"is not allowed: it {reason}. Remove it"


def known(name: str) -> str:
    """List the arguments that stand beside `name`, the likeliest meant first."""
    parent, _, last = name.rpartition(".")
    beside = [other.rpartition(".")[2] for other in _values() if other.rpartition(".")[0] == parent]
    return f"{did_you_mean(last, beside)}allowed: {', '.join(beside)}"


def did_you_mean(name: str, known: list[str]) -> str:
    """Suggest the known name closest to a mistyped one: "did you mean x? ", or nothing."""
    close = difflib.get_close_matches(name[:80].strip().lower().replace("-", "_"), known, n=1, cutoff=0.7)
    return f"did you mean {close[0]}? " if close else ""


def right_values(schema: dict[str, Any]) -> str:
    """Say in words what a field's JSON schema allows."""
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    say: Callable[[dict[str, Any]], str] | None = _IN_WORDS.get(schema.get("type", ""))
    return say(schema) if say is not None else "a mapping"


def _number_in_words(noun: str) -> Callable[[dict[str, Any]], str]:
    def say(schema: dict[str, Any]) -> str:
        low = f"above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else None
        low = low or f"from {_plain(schema['minimum'])}"
        high = f" to {_plain(schema['maximum'])}" if "maximum" in schema else " up"
        return f"{noun} {low}{high}"

    return say


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


_IN_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "integer": _number_in_words("a whole number"),
    "number": _number_in_words("a number"),
    "boolean": lambda _: "true or false",
    "string": lambda _: "text",
}


@cache
def _values() -> dict[str, str]:
    schema = EngineKwargs.model_json_schema()
    values = {}
    for name, field in schema["properties"].items():
        inner = schema["$defs"].get(field.get("$ref", "").removeprefix("#/$defs/"), {}).get("properties", {})
        values[name] = f"a mapping of {', '.join(inner)}" if inner else right_values(field)
        values |= {f"{name}.{key}": right_values(value) for key, value in inner.items()}
    return values
