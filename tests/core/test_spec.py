"""Promises of ServingSpec: what is read, what is refused with which code and words, and what can never happen."""

from __future__ import annotations

import json
import posixpath
from copy import deepcopy
from typing import Any

import pytest
import yaml
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.engine_args import EngineKwargs, given
from reconciler.names import is_suffix
from reconciler.spec import (
    HubSource,
    Limits,
    LocalSource,
    Problem,
    ServingSpec,
    SpecRejected,
    expand_macros,
    merge_patch,
    parse,
    resolved_yaml,
    source_of,
)

OWNER = "alice"
LIMITS = Limits(max_replicas=8, max_gpus_per_replica=4)
MINIMAL = "model_id: hello\nmodel_source: /private/hf/demo\n"
INVALID, FORBIDDEN, UNPROCESSABLE = Problem.INVALID, Problem.FORBIDDEN, Problem.UNPROCESSABLE


def outcome(text: str, suffix: str | None = None) -> ServingSpec | SpecRejected:
    return parse(text.encode(), owner=OWNER, limits=LIMITS, suffix=suffix)


def accepted(text: str, suffix: str | None = None) -> ServingSpec:
    spec = outcome(text, suffix)
    assert isinstance(spec, ServingSpec), spec
    return spec


def rejected(text: str, suffix: str | None = None) -> SpecRejected:
    rejection = outcome(text, suffix)
    assert isinstance(rejection, SpecRejected), rejection
    return rejection


# --- what is accepted


def test_the_defaults_are_one_replica_on_one_gpu() -> None:
    assert accepted(MINIMAL) == ServingSpec(model_id="hello", model_source="/private/hf/demo")
    spec = accepted(MINIMAL)
    assert (spec.num_replicas, spec.gpus_per_replica, given(spec.engine_kwargs)) == (1, 1, {})


def test_the_example_of_the_reference_is_accepted() -> None:
    spec = accepted(
        "model_id: qwen-0.5b                     # required\n"
        "model_source: $HOME/common/hf/hub/models--x/snapshots/0a1b\n"
        "num_replicas: 1\n"
        "gpus_per_replica: 1\n"
        "engine_kwargs:\n"
        "  max_model_len: 8192\n"
        "  gpu_memory_utilization: 0.9\n"
    )
    assert spec.model_source == "/private/hf/hub/models--x/snapshots/0a1b"
    assert given(spec.engine_kwargs) == {"max_model_len": 8192, "gpu_memory_utilization": 0.9}


def test_json_is_accepted_as_well() -> None:
    body = {
        "model_id": "a",
        "model_source": "/private/users/alice/é😀",
        "engine_kwargs": {"gpu_memory_utilization": 0.9},
    }
    expected = ServingSpec.model_validate(body)
    assert accepted(json.dumps(body)) == accepted(json.dumps(body, ensure_ascii=False)) == expected
    assert accepted(json.dumps(body).replace("0.9", "9e-1")) == expected


def test_specs_compare_and_hash_by_value_and_never_change() -> None:
    one, two = accepted(MINIMAL), accepted(f"# a comment\n{MINIMAL}num_replicas: 1\nengine_kwargs: {{}}\n")
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two, accepted(f"{MINIMAL}num_replicas: 2\n")}) == 2
    with pytest.raises(ValidationError):
        one.num_replicas = 2  # type: ignore[misc]  # what is asked here


def test_a_spec_survives_json() -> None:
    spec = accepted(f"{MINIMAL}engine_kwargs: {{seed: 1, limit_mm_per_prompt: {{image: 2}}}}\n")
    assert ServingSpec.model_validate_json(spec.model_dump_json()) == spec
    assert ServingSpec.model_validate(spec.model_dump()) == spec


def test_the_file_name_repeats_the_model_id() -> None:
    assert accepted(MINIMAL, suffix="hello").model_id == "hello"
    rejection = rejected(MINIMAL, suffix="other")
    assert rejection.message == (
        "model_id is 'hello' but the file is users/alice/other.yaml: write model_id: other, or name the file hello.yaml"
    )
    assert (rejection.problem, rejection.field, rejection.line, rejection.column) == (INVALID, "model_id", 1, 1)


def test_a_file_whose_name_is_no_suffix_must_be_renamed() -> None:
    assert rejected(MINIMAL, suffix="Other").message.endswith("'users/alice/Other.yaml': name the file hello.yaml")


# --- what is refused

TABLE: list[tuple[str, str, Problem, str, str | None]] = [
    ("an empty body", "", INVALID, "empty", None),
    ("a list", "- a\n", INVALID, "a list", None),
    ("broken YAML", "model_id: [", INVALID, "not valid YAML", None),
    ("a duplicate", f"{MINIMAL}model_id: b\n", INVALID, "model_id: given twice (first in line 1)", "model_id"),
    ("an anchor", f"{MINIMAL}engine_kwargs: &a {{}}\n", INVALID, "engine_kwargs: anchors", "engine_kwargs"),
    ("a tag", f"{MINIMAL}num_replicas: !!int '2'\n", INVALID, "num_replicas: tags", "num_replicas"),
    ("an unknown field", f"{MINIMAL}num_replica: 2\n", INVALID, "did you mean num_replicas?", "num_replica"),
    ("an unknown field lists the known", f"{MINIMAL}zzz: 2\n", INVALID,
     "not a field of a spec; the fields are: model_id, model_source, num_replicas, gpus_per_replica, engine_kwargs",
     "zzz"),
    ("a typo rather than what it leaves missing", "modelid: a\nmodel_source: /private/hf/x\n", INVALID,
     "did you mean model_id?", "modelid"),
    ("what the platform sets", f"{MINIMAL}accelerator_type: H20\n", INVALID, "set by the platform", "accelerator_type"),
    ("an engine argument in the wrong place", f"{MINIMAL}seed: 2\n", INVALID, "engine_kwargs.seed", "seed"),
    ("no model_id", "model_source: /private/hf/x\n", INVALID, "model_id is missing", "model_id"),
    ("no model_source", "model_id: a\n", INVALID, "model_source is missing", "model_source"),
    ("an empty model_id", "model_id: ''\nmodel_source: /private/hf/x\n", INVALID, "model_id is empty", "model_id"),
    ("a null model_id", "model_id:\nmodel_source: /private/hf/x\n", INVALID, "model_id is empty", "model_id"),
    ("an empty model_source", "model_id: a\nmodel_source: ''\n", INVALID, "model_source is empty", "model_source"),
    ("a null count", f"{MINIMAL}num_replicas:\n", INVALID, "num_replicas is empty", "num_replicas"),
    ("null engine_kwargs", f"{MINIMAL}engine_kwargs:\n", INVALID, "engine_kwargs is empty", "engine_kwargs"),
    ("a null argument", f"{MINIMAL}engine_kwargs: {{seed: }}\n", INVALID, "seed is empty", "engine_kwargs.seed"),
    ("engine_kwargs as a list", f"{MINIMAL}engine_kwargs: []\n", INVALID, "not a list", "engine_kwargs"),
    ("capitals in model_id", "model_id: Hello\nmodel_source: /private/hf/x\n", INVALID, "[a-z0-9._-]", "model_id"),
    ("a slash in model_id", "model_id: a/b\nmodel_source: /private/hf/x\n", INVALID, "not 'a/b' (text)", "model_id"),
    ("dots first in model_id", "model_id: ..\nmodel_source: /private/hf/x\n", INVALID, "not '..' (text)", "model_id"),
    ("a newline in model_id", 'model_id: "a\\n"\nmodel_source: /private/hf/x\n', INVALID, r"not 'a\n'", "model_id"),
    ("64 characters", f"model_id: {'a' * 64}\nmodel_source: /private/hf/x\n", INVALID, "1 to 63", "model_id"),
    ("a number as model_id", "model_id: 7\nmodel_source: /private/hf/x\n", INVALID, "not 7 (a whole number)",
     "model_id"),
    ("a list as model_source", "model_id: a\nmodel_source: [x]\n", INVALID, "not a list", "model_source"),
    ("an argument that is not allowed", f"{MINIMAL}engine_kwargs: {{trust_remote_code: true}}\n", INVALID,
     "engine_kwargs.trust_remote_code is not allowed: it changes which code runs", "engine_kwargs.trust_remote_code"),
    ("a forced argument", f"{MINIMAL}engine_kwargs: {{generation_config: vllm}}\n", INVALID, "is set by the platform",
     "engine_kwargs.generation_config"),
    ("an unknown argument", f"{MINIMAL}engine_kwargs: {{max_len: 1}}\n", INVALID, "allowed: max_model_len, ",
     "engine_kwargs.max_len"),
    ("an argument out of bounds", f"{MINIMAL}engine_kwargs: {{gpu_memory_utilization: 0.99}}\n", INVALID,
     "must be a number from 0.1 to 0.95, not 0.99", "engine_kwargs.gpu_memory_utilization"),
    ("an argument that is not a number", f"{MINIMAL}engine_kwargs: {{gpu_memory_utilization: .nan}}\n", INVALID,
     "must be a number from 0.1 to 0.95, not nan", "engine_kwargs.gpu_memory_utilization"),
    ("yes for true", f"{MINIMAL}engine_kwargs: {{enforce_eager: yes}}\n", INVALID, "must be true or false, not 'yes'",
     "engine_kwargs.enforce_eager"),
    ("a draft model", f"{MINIMAL}engine_kwargs: {{speculative_config: {{method: mtp, model: x/y}}}}\n", INVALID,
     "import code by name", "engine_kwargs.speculative_config.model"),
    ("tensor parallelism beyond the GPUs", f"{MINIMAL}engine_kwargs: {{tensor_parallel_size: 2}}\n", INVALID,
     "2 x 1 = 2, but gpus_per_replica is 1", "engine_kwargs.tensor_parallel_size"),
    ("mistakes in the order of the text", f"num_replicas: x\n{MINIMAL}gpus_per_replica: y\n", INVALID, "num_replicas",
     "num_replicas"),
    ("wrong types before wrong amounts", f"num_replicas: 0\n{MINIMAL}gpus_per_replica: y\n", INVALID,
     "gpus_per_replica", "gpus_per_replica"),
    ("a forbidden path", "model_id: a\nmodel_source: /private/users/bob/x\n", FORBIDDEN, "another user",
     "model_source"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem", "words", "field"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_is_wrong_is_told_with_its_code_its_words_and_its_field(
    text: str, problem: Problem, words: str, field: str | None
) -> None:
    rejection = rejected(text)
    assert rejection.problem is problem
    assert words in rejection.message
    assert rejection.field == field


@pytest.mark.parametrize("field", ["num_replicas", "gpus_per_replica"])
@pytest.mark.parametrize(
    "value", ["true", "false", "1.5", "2.0", "'2'", "two", "1e0", "[1]", "{}", "1:30", ".inf", "0b1"]
)
def test_a_boolean_a_fraction_and_text_are_no_count(field: str, value: str) -> None:
    rejection = rejected(f"{MINIMAL}{field}: {value}\n")
    assert rejection.problem is INVALID
    assert f"{field} must be a whole number from 1 to " in rejection.message
    assert (rejection.field, rejection.line, rejection.column) == (field, 3, 1)


@pytest.mark.parametrize(("field", "most"), [("num_replicas", 8), ("gpus_per_replica", 4)])
def test_a_count_beyond_its_limits_is_unprocessable(field: str, most: int) -> None:
    accepted(f"{MINIMAL}{field}: 1\n")
    accepted(f"{MINIMAL}{field}: {most}\n")
    for value in (0, -1, most + 1, 10**30):
        rejection = rejected(f"{MINIMAL}{field}: {value}\n")
        assert rejection.problem is UNPROCESSABLE
        assert rejection.message.startswith(f"{field} must be a whole number from 1 to {most}, not {value} ")
        assert (rejection.field, rejection.line) == (field, 3)


def test_a_nested_field_has_its_own_line_and_column() -> None:
    rejection = rejected(f"{MINIMAL}engine_kwargs:\n  seed: 1\n  limit_mm_per_prompt:\n    image: 99\n")
    assert (rejection.field, rejection.line, rejection.column) == ("engine_kwargs.limit_mm_per_prompt.image", 6, 5)
    assert "a whole number from 0 to 8, not 99" in rejection.message


def test_a_body_above_the_size_is_refused() -> None:
    rejection = parse(MINIMAL.encode(), owner=OWNER, limits=Limits(max_bytes=10))
    assert isinstance(rejection, SpecRejected)
    assert (rejection.problem, rejection.field) == (INVALID, None)
    assert "10 is the most" in rejection.message


def test_the_value_of_a_refused_argument_is_not_repeated() -> None:
    assert "hf_S3CRET" not in rejected(f"{MINIMAL}engine_kwargs: {{hf_token: hf_S3CRET}}\n").message
    assert "hf_S3CRET" not in rejected(f"{MINIMAL}password: hf_S3CRET\n").message
    assert "S3CRET" not in rejected("model_id: a\nmodel_source: https://me:S3CRET@hub/x\n").message


def test_a_long_value_is_shortened() -> None:
    rejection = rejected(f"model_id: {'a' * 4000}\nmodel_source: /private/hf/x\n")
    assert len(rejection.message) < 250


# --- sources


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/private/hf/demo", "/private/hf/demo"),
        ("/private/hf/demo/", "/private/hf/demo"),
        ("/private/hf/hub/models--a--b/snapshots/0f", "/private/hf/hub/models--a--b/snapshots/0f"),
        ("/private/users/alice/m", "/private/users/alice/m"),
        ("/private/users/alice/my model (v2), ü", "/private/users/alice/my model (v2), ü"),
        ("/private/hf/...", "/private/hf/..."),
        ("$HOME/m", "/private/users/alice/m"),
        ("$HOME/common/m", "/private/users/alice/common/m"),
        ("$HOME/common/hf/demo", "/private/hf/demo"),
        ("$HOME/common/hfx", "/private/users/alice/common/hfx"),
        ("$HOME/common/datasetsx", "/private/users/alice/common/datasetsx"),
    ],
)
def test_a_folder_below_the_owners_roots_is_accepted(written: str, path: str) -> None:
    spec = accepted(f"model_id: a\nmodel_source: {json.dumps(written)}\n")
    assert spec.model_source == path
    assert source_of(spec.model_source, OWNER) == LocalSource(path)


@pytest.mark.parametrize(
    ("written", "repo", "revision"),
    [
        ("org/name", "org/name", "main"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "main"),
        ("org/name@main", "org/name", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("_o/n_.x@v1.0-rc", "_o/n_.x", "v1.0-rc"),
        (f"{'o' * 96}/{'n' * 96}@{'r' * 200}", f"{'o' * 96}/{'n' * 96}", "r" * 200),
    ],
)
def test_a_hub_name_is_accepted(written: str, repo: str, revision: str) -> None:
    assert accepted(f"model_id: a\nmodel_source: {written}\n").model_source == written
    assert source_of(written, OWNER) == HubSource(repo, revision)


SOURCES: list[tuple[str, Problem, str]] = [
    ("/private/users/bob/m", FORBIDDEN, "another user's folder"),
    ("/private/users/bob", FORBIDDEN, "another user's folder"),
    ("/private/users/alice2/m", FORBIDDEN, "another user's folder"),
    ("/private/users/ALICE/m", FORBIDDEN, "another user's folder"),
    ("/private/users//bob/m", FORBIDDEN, "another user's folder"),
    ("//private/./users/bob/m", FORBIDDEN, "another user's folder"),
    ("$HOME/../bob", FORBIDDEN, "'..'"),
    ("$HOME/..", FORBIDDEN, "'..'"),
    ("/private/hf/../users/bob/m", FORBIDDEN, "'..'"),
    ("/private/hf/m/..", FORBIDDEN, "'..'"),
    ("../bob/m", FORBIDDEN, "'..'"),
    ("org/..", FORBIDDEN, "'..'"),
    ("/private/users", FORBIDDEN, "outside the folders"),
    ("/private", FORBIDDEN, "outside the folders"),
    ("/", FORBIDDEN, "outside the folders"),
    ("//", FORBIDDEN, "outside the folders"),
    ("/etc/passwd", FORBIDDEN, "outside the folders"),
    ("//etc/passwd", FORBIDDEN, "outside the folders"),
    ("/privatex/hf/m", FORBIDDEN, "outside the folders"),
    ("/private/hfx/m", FORBIDDEN, "outside the folders"),
    ("/Private/hf/m", FORBIDDEN, "outside the folders"),
    ("/private/datasets/d", FORBIDDEN, "no place for models"),
    ("$HOME/common/datasets/d", FORBIDDEN, "no place for models"),
    ("$HOME/common/datasets", FORBIDDEN, "no place for models"),
    ("/private/hf", INVALID, "names no model"),
    ("/private/hf/", INVALID, "names no model"),
    ("/private/users/alice", INVALID, "names no model"),
    ("$HOME", INVALID, "names no model"),
    ("$HOME/", INVALID, "names no model"),
    ("$HOME/common/hf", INVALID, "names no model"),
    ("/private//hf/m", INVALID, "write '/private/hf/m'"),
    ("/private/hf/./m", INVALID, "write '/private/hf/m'"),
    ("/private/hf/m//", INVALID, "write '/private/hf/m'"),
    ("/private/hf/m/.", INVALID, "write '/private/hf/m'"),
    ("/private/hf/m\\x", INVALID, "backslash"),
    ("C:\\models", INVALID, "backslash"),
    ("/private/hf/m\x00", INVALID, "control character"),
    ("/private/hf/m\nx", INVALID, "control character"),
    ("/private/hf/m\u202ex", INVALID, "control character or an invisible one"),
    ("/private/hf/m\u200bx", INVALID, "control character or an invisible one"),
    ("/private/hf/m ", INVALID, "space"),
    (" /private/hf/m", INVALID, "space"),
    ("   ", INVALID, "is empty"),
    (f"/private/hf/{'m/' * 600}m", INVALID, "1024 is the most"),
    (f"/private/hf/{'é' * 128}", INVALID, "255 bytes"),
    ("$HOMEX/m", INVALID, "no macro"),
    ("${HOME}/m", INVALID, "no macro"),
    ("$USER/m", INVALID, "no macro"),
    ("/private/hf/$HOME", INVALID, "no macro"),
    ("$HOME/$HOME", INVALID, "no macro"),
    ("~/m", INVALID, "neither a path"),
    ("~bob/m", INVALID, "neither a path"),
    ("m", INVALID, "neither a path"),
    ("./m", INVALID, "neither a path"),
    ("private/hf/m", INVALID, "neither a path"),
    ("org/name/more", INVALID, "neither a path"),
    ("org/", INVALID, "neither a path"),
    ("-org/name", INVALID, "neither a path"),
    ("org/name.", INVALID, "neither a path"),
    ("org/.name", INVALID, "neither a path"),
    ("org/na--me", INVALID, "neither a path"),
    ("org/na..me", INVALID, "neither a path"),
    ("örg/name", INVALID, "neither a path"),
    (f"org/{'n' * 97}", INVALID, "neither a path"),
    ("hf:org/name", INVALID, "neither a path"),
    ("org/name@", INVALID, "revision"),
    ("org/name@-x", INVALID, "revision"),
    ("org/name@/x", INVALID, "revision"),
    ("org/name@x/", INVALID, "revision"),
    ("org/name@x//y", INVALID, "revision"),
    ("org/name@x/./y", INVALID, "revision"),
    ("org/name@x..y", INVALID, "revision"),
    ("org/name@x@y", INVALID, "revision"),
    ("org/name@x y", INVALID, "revision"),
    (f"org/name@{'r' * 201}", INVALID, "revision"),
    ("http://h/x", INVALID, "never a host"),
    ("https://h/x/../y", INVALID, "never a host"),
    ("s3://bucket/x", INVALID, "never a host"),
    ("hf://org/name", INVALID, "never a host"),
    ("file:///private/hf/m", INVALID, "never a host"),
]


@pytest.mark.parametrize(("written", "problem", "words"), SOURCES, ids=[repr(row[0])[:40] for row in SOURCES])
def test_every_other_source_is_refused_with_the_reason(written: str, problem: Problem, words: str) -> None:
    rejection = rejected(f"model_id: a\nmodel_source: {json.dumps(written)}\n")
    assert rejection.problem is problem
    assert words in rejection.message
    assert "it must be a model's folder" in rejection.message
    assert (rejection.field, rejection.line, rejection.column) == ("model_source", 2, 1)


# --- the resolved form


def test_the_resolved_form_shows_macros_and_defaults_and_only_what_was_given() -> None:
    spec = accepted(
        "engine_kwargs: {override_generation_config: {temperature: 0.00001}, seed: 0x10, dtype: auto}\n"
        "model_id: '1e3'\nmodel_source: $HOME/my model\n"
    )
    assert resolved_yaml(spec) == (
        'model_id: "1e3"\n'
        'model_source: "/private/users/alice/my model"\n'
        "num_replicas: 1\n"
        "gpus_per_replica: 1\n"
        "update_strategy: auto\n"
        "engine_kwargs:\n"
        "  dtype: auto\n"
        "  seed: 16\n"
        "  override_generation_config:\n"
        "    temperature: 1e-05\n"
    )
    assert resolved_yaml(accepted(MINIMAL)).endswith("engine_kwargs: {}\n")


# --- merge patches: the examples of RFC 7396, appendix A, that are mappings


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}), ({"a": "foo"}, {"a": {"b": None}}, {"a": {}}),
    ],
)  # fmt: skip
def test_merge_patches_do_what_the_rfc_shows(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


def test_no_patch_is_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(20_000):
        deep = {"a": deep}
    merge_patch({}, deep)
    while deep:  # taken apart by hand: Python frees nested mappings recursively
        deep = deep.pop("a", {})


# --- properties


@generated(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: MINIMAL.encode() + tail))
@settings(deadline=None)
def test_any_bytes_give_a_spec_or_a_rejection(data: bytes) -> None:
    first = parse(data, owner=OWNER, limits=LIMITS, suffix="hello")
    assert isinstance(first, ServingSpec | SpecRejected)
    assert parse(data, owner=OWNER, limits=LIMITS, suffix="hello") == first


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*ServingSpec.model_fields, "num_replica", "x"])
ARGUMENTS = st.sampled_from([*EngineKwargs.model_fields, "model", "trust_remote_code", "x.y", ""])


@generated(
    st.dictionaries(NAMES, PLAIN | st.dictionaries(ARGUMENTS, PLAIN, max_size=4), max_size=6),
    st.sampled_from([{}, {"model_id": "a", "model_source": "/private/hf/demo"}]),
)
@settings(deadline=None, max_examples=150)
def test_any_mapping_gives_a_spec_or_a_rejection_that_names_a_field(
    fields: dict[str, Any], base: dict[str, Any]
) -> None:
    body = json.dumps(fields | base)
    result = parse(body.encode(), owner=OWNER, limits=LIMITS)
    if isinstance(result, SpecRejected):
        assert result.message
        assert len(result.message) < 2000
        assert "\n" not in result.message


SEGMENT = st.text("ab.-_ @é$~\\/:", min_size=1, max_size=6) | st.sampled_from(
    [
        "..",
        ".",
        "",
        "private",
        "hf",
        "users",
        "alice",
        "bob",
        "datasets",
        "$HOME",
        "common",
        "org",
        "name",
        "null",
        "true",
    ]
)
SOURCE = st.builds(
    lambda start, segments: start + "/".join(segments),
    st.sampled_from(
        ["", "/", "/private/", "/private/hf/", "/private/users/alice/", "/private/users/", "$HOME/", "$HOME"]
    ),
    st.lists(SEGMENT, max_size=5),
)


@generated(SOURCE, st.sampled_from(["alice", "bob", "a.b", "..", "", "a/b"]))
@settings(deadline=None, max_examples=500)
def test_no_accepted_source_leaves_its_owners_roots(written: str, owner: str) -> None:
    source = source_of(expand_macros(written, owner), owner)
    if isinstance(source, LocalSource):
        assert posixpath.normpath(source.path) == source.path
        assert source.path.startswith(("/private/hf/", f"/private/users/{owner}/"))
        assert owner in {"alice", "bob", "a.b"} or source.path.startswith("/private/hf/")
        assert source_of(source.path, owner) == source
    elif isinstance(source, HubSource):
        assert source.repo.count("/") == 1
        assert not {"", ".", ".."} & {*source.repo.split("/"), *source.revision.split("/")}


FRACTION = st.floats(0.0, 1.0, exclude_min=True)
SPECS = st.fixed_dictionaries(
    {
        "model_id": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
        | st.sampled_from(["null", "true", "on", "1e3", "0o17", "7"]),
        "model_source": SOURCE | st.sampled_from(["/private/hf/demo", "$HOME/x", "org/name@v1", "on/off", "0/1"]),
    },
    optional={
        "num_replicas": st.integers(1, 8),
        "gpus_per_replica": st.integers(1, 4),
        "update_strategy": st.sampled_from(["auto", "surge", "recreate"]),
        "engine_kwargs": st.fixed_dictionaries(
            {},
            optional={
                "max_model_len": st.integers(1, 10_000_000),
                "gpu_memory_utilization": st.floats(0.10, 0.95),
                "enforce_eager": st.booleans(),
                "block_size": st.sampled_from([8, 16, 32, 64, 128]),
                "quantization": st.sampled_from(["compressed-tensors", "fp8"]),
                "tool_call_parser": st.sampled_from(["granite-20b-fc", "openai"]),
                "limit_mm_per_prompt": st.dictionaries(st.sampled_from(["image", "audio"]), st.integers(0, 8)),
                "override_generation_config": st.dictionaries(
                    st.sampled_from(["temperature", "top_p", "min_p"]), FRACTION | st.just(1)
                ),
                "speculative_config": st.just({"method": "ngram", "num_speculative_tokens": 2}),
            },
        ),
    },
)


@generated(SPECS)
@settings(deadline=None, max_examples=300)
def test_every_accepted_spec_survives_its_resolved_form(fields: dict[str, Any]) -> None:
    spec = parse(json.dumps(fields).encode(), owner=OWNER, limits=LIMITS)
    if isinstance(spec, ServingSpec):
        assert is_suffix(spec.model_id)
        in_full = spec.model_copy(update={"update_strategy": spec.update_strategy or "surge"})
        text = resolved_yaml(spec, "surge")
        assert parse(text.encode(), owner=OWNER, limits=LIMITS, suffix=spec.model_id) == in_full
        assert yaml.safe_load(resolved_yaml(spec))["model_id"] == spec.model_id, "readers of YAML 1.1 agree"
        assert given(spec.engine_kwargs) == fields.get("engine_kwargs", {})
    else:
        assert spec.field == "model_source"


PATCHES = st.dictionaries(st.sampled_from("abc"), PLAIN, max_size=3)


def without_null(value: Any) -> Any:
    return {k: without_null(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@generated(PATCHES, PATCHES)
@settings(deadline=None)
def test_merge_patch_laws(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = deepcopy((target, patch))
    merged = merge_patch(target, patch)
    assert repr((target, patch)) == repr(before), "neither argument is changed"
    assert repr(merge_patch(merged, patch)) == repr(merged), "twice is once"
    assert repr(merge_patch(target, {})) == repr(target), "the empty patch changes nothing"
    assert repr(merge_patch({}, patch)) == repr(without_null(patch)), "on nothing a patch is itself without nulls"
    assert merge_patch(target, dict.fromkeys(target)) == {}, "nulls remove"


# --- the schema that OpenAPI shows


def test_the_json_schema_describes_every_field_and_offers_no_null() -> None:
    schema = ServingSpec.model_json_schema()
    assert schema["required"] == ["model_id", "model_source"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["engine_kwargs"]["default"] == {}
    assert schema["properties"]["num_replicas"]["minimum"] == 1
    assert all(field["description"] and field["examples"] for field in schema["properties"].values())
    assert '"null"' not in json.dumps(schema)
