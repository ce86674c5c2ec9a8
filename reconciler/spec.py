"""ServingSpec: what one model's file says, checked, or the one reason why it cannot be used.

`parse` is the only way from bytes to a spec, for files pushed to the repository and for bodies sent to the API alike.
Everything here is lexical: whether a folder exists, and where its links lead, is for those who look at the disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from reconciler import yamlsafe
from reconciler.engine_args import (
    NONE_GIVEN,
    Allowed,
    EngineKwargs,
    classify,
    contradiction,
    did_you_mean,
    given,
    why_not,
)
from reconciler.names import SPEC_ENDING, SUFFIX_PATTERN, SUFFIX_RULE, is_suffix, spec_path
from reconciler.yamlsafe import Document, Path, dotted, quoted, shown

HF_ROOT = "/private/hf"
DATASETS_ROOT = "/private/datasets"
USERS_ROOT = "/private/users"

SOURCE_RULE = (
    f"a model's folder ({HF_ROOT}/..., {USERS_ROOT}/<your user id>/..., $HOME/common/hf/..., $HOME/...) "
    "or a hub name (org/name or org/name@revision)"
)
MACRO_RULE = "$HOME/common/hf, $HOME/common/datasets and $HOME, at the start only"
MAX_SOURCE = 1024
"""Characters in a model source; file systems end at 4096 bytes, and Argus puts folders of its own in front."""
MAX_COMPONENT = 255
"""Bytes in one folder's name, the limit of Linux's file systems."""

UpdateStrategy: TypeAlias = Literal["auto", "surge", "recreate"]
"""How a changed model replaces the version that answers (`core.plan`): the new one beside it, or after it has gone."""
UPDATE_STRATEGIES: tuple[UpdateStrategy, ...] = get_args(UpdateStrategy)


class Problem(StrEnum):
    """What kind of rejection it is. The API answers 400, 403 and 422, in this order."""

    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    UNPROCESSABLE = "unprocessable"


@dataclass(frozen=True, slots=True)
class SpecRejected:
    """Why a spec cannot be used: what was wrong, where, and what would be right.

    `field` is dotted (`engine_kwargs.seed`); `line` and `column` count from 1; each is None where there is none.
    """

    problem: Problem
    message: str
    field: str | None = None
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The platform's bounds on every spec."""

    max_replicas: int = 64
    max_gpus_per_replica: int = 64
    max_bytes: int = 65536


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A folder, as specs name it: `/private/...`, wherever that lies on disk."""

    path: str


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model of the shared hub cache: `org/name` at a branch, tag or commit."""

    repo: str
    revision: str


def _as_it_is_written(schema: dict[str, Any]) -> None:
    """Say what holds for files: an update strategy is given with a value or not at all."""
    properties = schema["properties"]
    properties["engine_kwargs"]["default"] = {}
    strategy = properties["update_strategy"]
    kept = next(option for option in strategy.pop("anyOf") if option.get("type") != "null")
    properties["update_strategy"] = {**kept, **{key: strategy[key] for key in strategy if key != "default"}}


class ServingSpec(BaseModel):
    """What one model's owner wants. Compares and hashes by value; macros in `model_source` are expanded."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra=_as_it_is_written)

    model_id: str = Field(
        pattern=SUFFIX_PATTERN,
        description=f"What the owner calls the model: {SUFFIX_RULE}. "
        "The public name is <user_id>-<YYYYMMDDHHMM>-<model_id>.",
        examples=["qwen-0.5b"],
    )
    model_source: str = Field(
        min_length=1,
        json_schema_extra={"maxLength": MAX_SOURCE},
        description=f"Where the model is: {SOURCE_RULE}. Hub names are found in the shared cache, never downloaded.",
        examples=["$HOME/common/hf/demo", "/private/hf/demo", "Qwen/Qwen2.5-0.5B-Instruct@main"],
    )
    num_replicas: int = Field(
        default=1, ge=1, description="How many engines answer for the model; the platform sets a maximum.", examples=[2]
    )
    gpus_per_replica: int = Field(
        default=1, ge=1, description="GPUs of one engine; the platform sets a maximum.", examples=[1]
    )
    engine_kwargs: EngineKwargs = Field(
        default=NONE_GIVEN,
        description="Arguments of vLLM: those listed, each typed and bounded, and no others.",
        examples=[{"max_model_len": 8192, "gpu_memory_utilization": 0.9}],
    )
    update_strategy: UpdateStrategy | None = Field(
        default=None,
        # A spec that leaves it out is dumped without it, so that what was kept before the field came reads the same.
        exclude_if=lambda strategy: strategy is None,
        description="How a changed engine replaces the one that answers. surge: beside it, and only so; recreate: "
        "after it has gone; auto: beside it where there is room, else after it. The platform sets the default.",
        examples=["auto"],
    )

    @field_validator("update_strategy", mode="before")
    @classmethod
    def _is_given(cls, value: object) -> object:
        if value is None:
            raise PydanticCustomError("missing_value", "Input should not be null")
        return value


def parse(data: bytes, *, owner: str, limits: Limits, suffix: str | None = None) -> ServingSpec | SpecRejected:
    """Read a spec of `owner` from YAML or JSON. Total and deterministic: any bytes give a value.

    `suffix` is the name of the file in the repository, where there is one; `model_id` must repeat it. Of several
    mistakes one is told: INVALID ones before UNPROCESSABLE ones, then the first in the text.
    """
    document = yamlsafe.read(data, limits.max_bytes)
    if isinstance(document, yamlsafe.Refused):
        message = f"{document.field}: {document.message}" if document.field else document.message
        return SpecRejected(Problem.INVALID, message, document.field, document.line, document.column)
    fields = document.data
    if isinstance(written := fields.get("model_source"), str):
        fields["model_source"] = _without_last_slash(expand_macros(written, owner))
    try:
        spec = ServingSpec.model_validate(fields)
    except ValidationError as error:
        found = (_explain(details, document, limits) for details in error.errors(include_url=False))
        return min(found, key=_importance)
    rejected = _misnamed(spec, owner, suffix) or _misplaced(spec, owner) or _misfit(spec) or _oversized(spec, limits)
    return _placed(rejected, document) if rejected is not None else spec


def resolved_yaml(spec: ServingSpec, update_strategy: UpdateStrategy = "auto") -> str:
    """Write a spec out in full: macros expanded, defaults shown, only those engine arguments that were given.

    `parse` reads the same spec from it. `update_strategy` is what holds where the spec does not say.
    """
    fields = {
        "model_id": spec.model_id,
        "model_source": spec.model_source,
        "num_replicas": spec.num_replicas,
        "gpus_per_replica": spec.gpus_per_replica,
        "update_strategy": spec.update_strategy or update_strategy,
        "engine_kwargs": given(spec.engine_kwargs),
    }
    return "".join(f"{line}\n" for line in _yaml_lines(fields, ""))


def expand_macros(source: str, owner: str) -> str:
    """Replace a macro at the start of `source`, where the macro's name ends at a slash or at the end.

    `$HOME/common/hfx` is thus the folder common/hfx of the owner, and `$HOMEX` no macro at all.
    """
    for macro, path in (
        ("$HOME/common/hf", HF_ROOT),
        ("$HOME/common/datasets", DATASETS_ROOT),
        ("$HOME", f"{USERS_ROOT}/{owner}"),
    ):
        if source == macro or source.startswith(f"{macro}/"):
            return path + source.removeprefix(macro)
    return source


def source_of(model_source: str, owner: str) -> LocalSource | HubSource | SpecRejected:
    """Say what a model source with its macros expanded names, for a spec of `owner`. Total; looks at no disk.

    A path that leaves the owner's roots is FORBIDDEN however it is spelled; what is merely spelled wrong is INVALID.
    """
    if (wrong := _misspelt(model_source)) is not None:
        return _source_problem(wrong, model_source)
    if ".." in model_source.split("/"):
        return _source_problem("holds '..'; write the path without it", model_source, Problem.FORBIDDEN)
    return _local(model_source, owner) if model_source.startswith("/") else _hub(model_source)


def merge_patch(spec_engine_kwargs: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a JSON merge patch (RFC 7396) to plain data: null removes, mappings merge, all else replaces.

    Neither argument is changed. Not recursive, so that no depth of patch is too deep.
    """
    merged = dict(spec_engine_kwargs)
    todo: list[tuple[dict[str, Any], Mapping[str, Any]]] = [(merged, patch)]
    while todo:
        into, changes = todo.pop()
        for name, value in changes.items():
            if value is None:
                into.pop(name, None)
            elif isinstance(value, Mapping):
                before = into.get(name)
                into[name] = dict(before) if isinstance(before, Mapping) else {}
                todo.append((into[name], value))
            else:
                into[name] = value
    return merged


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# The hub's own grammar for both halves of org/name; "--" is how its cache writes "/" in folder names.
_HUB_PART = re.compile(r"(?![.-])(?!.*(?:--|\.\.))[A-Za-z0-9._-]{1,96}(?<![.-])\Z")
_REVISION = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/-]{0,199}\Z")
# What needs no quotes, unless it reads as a boolean or null, here or in tools that follow YAML 1.1.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9._/@-]*\Z")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})

_COUNTS = {("num_replicas",): "max_replicas", ("gpus_per_replica",): "max_gpus_per_replica"}
_BELONGS_TO_PLATFORM = frozenset({"accelerator_type", "model_key", "user_id", "endpoint", "state"})


def _misnamed(spec: ServingSpec, owner: str, suffix: str | None) -> SpecRejected | None:
    if suffix is None or spec.model_id == suffix:
        return None
    path, remedy = spec_path(owner, suffix), f"name the file {spec.model_id}{SPEC_ENDING}"
    if is_suffix(suffix):
        remedy = f"write model_id: {suffix}, or {remedy}"
    message = f"model_id is '{spec.model_id}' but the file is {path if is_suffix(suffix) else quoted(path)}: {remedy}"
    return SpecRejected(Problem.INVALID, message, "model_id")


def _misplaced(spec: ServingSpec, owner: str) -> SpecRejected | None:
    source = source_of(spec.model_source, owner)
    return source if isinstance(source, SpecRejected) else None


def _misfit(spec: ServingSpec) -> SpecRejected | None:
    if spec.engine_kwargs is NONE_GIVEN:
        return None
    found = contradiction(spec.engine_kwargs, spec.gpus_per_replica)
    if found is None:
        return None
    name, message = found
    return SpecRejected(Problem.INVALID, f"engine_kwargs: {message}", f"engine_kwargs.{name}")


def _oversized(spec: ServingSpec, limits: Limits) -> SpecRejected | None:
    for field, count in (("num_replicas", spec.num_replicas), ("gpus_per_replica", spec.gpus_per_replica)):
        if count > _most((field,), limits):
            message = f"{field} must be {_right((field,), limits)}, not {shown(count)}"
            return SpecRejected(Problem.UNPROCESSABLE, message, field)
    return None


def _placed(rejected: SpecRejected, document: Document) -> SpecRejected:
    line, column = document.place(tuple((rejected.field or "").split(".")))
    return replace(rejected, line=line, column=column)


def _importance(rejected: SpecRejected) -> tuple[bool, float, int]:
    # What is missing has no place and comes last: most often it is there under a mistyped, unknown name.
    place = (rejected.line, rejected.column or 0) if rejected.line is not None else (float("inf"), 0)
    return (rejected.problem is not Problem.INVALID, *place)


def _explain(details: ErrorDetails, document: Document, limits: Limits) -> SpecRejected:
    path, value, kind = details["loc"], details["input"], details["type"]
    name, right = dotted(path), _right(path, limits)
    problem = Problem.INVALID
    if kind == "extra_forbidden":
        message = f"{name} {_why_unknown(path)}"
    elif kind == "missing":
        message = f"{name} is missing: it must be {right}"
    elif value is None or value == "":
        message = f"{name} is empty: it must be {right}"
        message += "" if path[-1] in _REQUIRED else "; leave the line out where you want none"
    else:
        message = f"{name} must be {right}, not {shown(value)}"
        if path in _COUNTS and kind == "greater_than_equal":
            problem = Problem.UNPROCESSABLE
    line, column = document.place(path) if kind != "missing" or len(path) > 1 else (None, None)
    return SpecRejected(problem, message, name, line, column)


_REQUIRED = frozenset(name for name, field in ServingSpec.model_fields.items() if field.is_required())


def _why_unknown(path: Path) -> str:
    name = ".".join(str(part) for part in path)
    if path[0] == "engine_kwargs":
        return why_not(name.removeprefix("engine_kwargs."))
    if name in _BELONGS_TO_PLATFORM:
        return "is set by the platform, not by a spec; remove it"
    if isinstance(classify(name), Allowed):
        return f"is an argument of the engine; write it under engine_kwargs (engine_kwargs.{name})"
    known = list(ServingSpec.model_fields)
    return f"is not a field of a spec; {did_you_mean(name, known)}the fields are: {', '.join(known)}"


def _right(path: Path, limits: Limits) -> str:
    if path in _COUNTS:
        return f"a whole number from 1 to {_most(path, limits)}"
    if len(path) > 1:
        verdict = classify(".".join(str(part) for part in path[1:]))
        return verdict.values if isinstance(verdict, Allowed) else "left out"
    return {
        "model_id": f"text, {SUFFIX_RULE}",
        "model_source": SOURCE_RULE,
        "update_strategy": f"one of {', '.join(UPDATE_STRATEGIES)}",
    }.get(str(path[0]), "a mapping of engine arguments (or {})")


def _most(path: Path, limits: Limits) -> int:
    most: int = getattr(limits, _COUNTS[path])  # type: ignore[index]  # the caller looked it up
    return most


def _source_problem(what: str, source: str, problem: Problem = Problem.INVALID) -> SpecRejected:
    message = f"model_source {what}: {quoted(source)}; it must be {SOURCE_RULE}"
    return SpecRejected(problem, message, "model_source")


def _without_last_slash(source: str) -> str:
    # What a shell completes: /private/hf/demo/ is /private/hf/demo. Only one, and not that of "/" itself.
    return source[:-1] if source.startswith("/") and source.endswith("/") and len(source) > 1 else source


def _misspelt(source: str) -> str | None:
    checks = (
        (not source.strip(), "is empty"),
        (len(source) > MAX_SOURCE, f"has {len(source)} characters; {MAX_SOURCE} is the most"),
        (not source.isprintable(), "holds a control character or an invisible one"),
        ("\\" in source, "holds a backslash"),
        (source != source.strip(), "begins or ends with a space"),
        ("$" in source, f"holds a '$' that is no macro (they are {MACRO_RULE})"),
        (_SCHEME.match(source) is not None, "is a URL; a spec names a folder or org/name, never a host"),
    )
    return next((what for is_wrong, what in checks if is_wrong), None)


def _local(path: str, owner: str) -> LocalSource | SpecRejected:
    # Judged by where it leads before how it is spelled: /private//users/bob is bob's folder first of all.
    names = [part for part in path.split("/") if part not in ("", ".")]
    wrong, problem = "lies outside the folders that hold models", Problem.FORBIDDEN
    match names:
        case ["private", "hf", *below]:
            wrong, problem = _misspelt_path(path, names, below), Problem.INVALID
        case ["private", "users", user, *below] if user == owner:
            wrong, problem = _misspelt_path(path, names, below), Problem.INVALID
        case ["private", "users", _, *_]:
            wrong = "lies in another user's folder"
        case ["private", "datasets", *_]:
            wrong = f"lies in {DATASETS_ROOT}, which holds data sets and is no place for models"
    return _source_problem(wrong, path, problem) if wrong else LocalSource(path)


def _misspelt_path(path: str, names: list[str], below: list[str]) -> str:
    if not below:
        return "names no model, only the folder that models lie in"
    if "/" + "/".join(names) != path:
        return f"holds '//' or '/./' (write {quoted('/' + '/'.join(names))})"
    if any(len(name.encode()) > MAX_COMPONENT for name in names):
        return f"holds a name of more than {MAX_COMPONENT} bytes"
    return ""


def _hub(name: str) -> HubSource | SpecRejected:
    repo, at, revision = name.partition("@")
    halves = repo.split("/")
    if len(halves) != 2 or not all(_HUB_PART.match(half) for half in halves):
        return _source_problem("is neither a path that begins with /private/ or $HOME nor a hub name", name)
    revision = revision if at else "main"
    if not _REVISION.match(revision) or ".." in revision or {"", "."} & set(revision.split("/")):
        what = "has a revision (after '@') that is not 1 to 200 of [A-Za-z0-9._/-], no '..', no '/' at either end"
        return _source_problem(what, name)
    return HubSource(repo, revision)


def _yaml_lines(fields: Mapping[str, Any], indent: str) -> list[str]:
    # PyYAML writes for YAML 1.1, where 0o17 is text; this reader follows 1.2. Ours are few and simple kinds.
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", *_yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_yaml_value(value)}")
    return lines


def _yaml_value(value: object) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
