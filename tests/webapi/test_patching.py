"""A PATCH changes the values it names and not one character else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import yamlsafe
from reconciler.spec import merge_patch
from webapi.patching import patched
from webapi.yamltext import Unpatchable


def _data(text: str) -> dict[str, Any]:
    read = yamlsafe.read(text.encode(), 1_000_000)
    assert isinstance(read, yamlsafe.Document), read
    return read.data


CASES = [
    pytest.param("num_replicas: 1\n", {"num_replicas": 2}, "num_replicas: 2\n", id="a value"),
    pytest.param("num_replicas:   1   # one\n", {"num_replicas": 2}, "num_replicas:   2   # one\n", id="alignment"),
    pytest.param("'num_replicas' : 1", {"num_replicas": 2}, "'num_replicas' : 2", id="a quoted name, no last line end"),
    pytest.param("num_replicas:\n  # why\n  1\n", {"num_replicas": 2}, "num_replicas:\n  # why\n  2\n", id="next line"),
    pytest.param("num_replicas: # why\n", {"num_replicas": 2}, "num_replicas: 2 # why\n", id="an empty value"),
    pytest.param(
        "num_replicas: >-\n  1\n\na: b\n", {"num_replicas": 2}, "num_replicas: 2\n\na: b\n", id="a block scalar"
    ),
    pytest.param("a: b\r\nn: 1\r\n", {"n": 2, "m": 3}, "a: b\r\nn: 2\r\nm: 3\r\n", id="CRLF"),
    pytest.param("\ufeffn: 1\n", {"n": 2}, "\ufeffn: 2\n", id="a byte order mark"),
    pytest.param("a: b  # one\n# end\n", {"n": 2}, "a: b  # one\nn: 2\n# end\n", id="a name that is new"),
    pytest.param("a: b", {"n": 2}, "a: b\nn: 2", id="a new name behind a text without line end"),
    pytest.param("---\na: b\n...\n", {"n": 2}, "---\na: b\nn: 2\n...\n", id="document marks"),
    pytest.param("n: 0x10\n", {"n": 16}, "n: 0x10\n", id="an equal value keeps how it is written"),
    pytest.param(
        "e:\n  x: 1\n  # tail\nz: 1\n", {"e": {"y": 2}}, "e:\n  x: 1\n  y: 2\n  # tail\nz: 1\n", id="a new inner name"
    ),
    pytest.param(
        "e:\n    x: 1\n", {"e": {"y": {"z": "w"}}}, "e:\n    x: 1\n    y:\n      z: w\n", id="an inner mapping"
    ),
    pytest.param("e: {}\n", {"e": {"y": 2}}, "e: {y: 2}\n", id="into an empty flow"),
    pytest.param("e: { x: 1 }\n", {"e": {"y": 2}}, "e: { x: 1, y: 2 }\n", id="into a spaced flow"),
    pytest.param("e: {x: 1, y: 2, z: 3}\n", {"e": {"y": None}}, "e: {x: 1, z: 3}\n", id="out of a flow's middle"),
    pytest.param("e: {x: 1, y: 2}\n", {"e": {"y": None}}, "e: {x: 1}\n", id="out of a flow's end"),
    pytest.param("e: {x: 1}\n", {"e": {"x": None}}, "e: {}\n", id="out of a flow of one"),
    pytest.param("a: b\n", {"e": {"x": 1, "y": "auto"}}, "a: b\ne:\n  x: 1\n  y: auto\n", id="a new mapping"),
    pytest.param("e: null\n", {"e": {"x": True}}, "e: {x: true}\n", id="a mapping for null"),
    pytest.param("a: b\ne:\n  x: 1\n  y: 2\n", {"e": {"x": None}}, "a: b\ne:\n  y: 2\n", id="a line is removed"),
    pytest.param("e:\n  x: 1  # why\n  y: 2\n", {"e": {"x": None}}, "e:\n  # why\n  y: 2\n", id="its comment stays"),
    pytest.param(
        "e:  # all\n  # one\n  x: 1  # two\na: b\n",
        {"e": {"x": None}},
        "e: {}  # all\n  # one\n  # two\na: b\n",
        id="the last inner name is removed",
    ),
    pytest.param(
        "a: b\ne:  # all\n  x: # one\n    z: 1\n    # two\n    w: 1  # three\n  y: 1\n",
        {"e": {"x": None}},
        "a: b\ne:  # all\n  # one\n  # two\n  # three\n  y: 1\n",
        id="a removed block leaves its comments",
    ),
    pytest.param("a: b\ne:\n  x: 1\n", {"e": None}, "a: b\n", id="a whole block is removed"),
    pytest.param('{"a": "b", "n": 1}', {"n": 2}, '{"a": "b", "n": 2}', id="JSON"),
    pytest.param('{"a": "b"}', {"n": 2, "e": {"d": "auto"}}, '{"a": "b", "n": 2, "e": {"d": "auto"}}', id="JSON grows"),
    pytest.param('{\n  "a": "b"\n}\n', {"n": 2}, '{\n  "a": "b",\n  "n": 2\n}\n', id="JSON in lines"),
    pytest.param(
        '{\n\t"a": "b",\n\t"e": {\n\t\t"x": 1,\n\t\t"y": 2\n\t}\n}\n',
        {"e": {"y": None}},
        '{\n\t"a": "b",\n\t"e": {\n\t\t"x": 1\n\t}\n}\n',
        id="JSON in lines with tabs",
    ),
    pytest.param('{"a": "b", "e": {}}', {"e": {"d": "auto"}}, '{"a": "b", "e": {"d": "auto"}}', id="empty JSON grows"),
    pytest.param(
        "{a: b, # one\n n: 1, # two\n}\n", {"m": 2}, "{a: b, # one\n n: 1,\n m: 2 # two\n}\n", id="a last comma"
    ),
    pytest.param("{a: b, # one\n n: 1 # two\n}\n", {"n": None}, "{a: b # one\n # two\n}\n", id="a flow with comments"),
    pytest.param(
        "a: 'yes'\n", {"b": "yes", "c": "1e5"}, 'a: \'yes\'\nb: "yes"\nc: "1e5"\n', id="ambiguous text is quoted"
    ),
]


@pytest.mark.parametrize(("text", "patch", "after"), CASES)
def test_a_patch_changes_only_what_it_names(text: str, patch: dict[str, Any], after: str) -> None:
    assert patched(text, patch) == after


@pytest.mark.parametrize(
    ("text", "patch"),
    [
        pytest.param("? a\n: b\nn: 1\n", {"a": None}, id="an explicit name"),
        pytest.param("e:\n- 1\n- 2\n", {"e": {"x": 1}}, id="a block list"),
        pytest.param("a: &x b\n", {"n": 1}, id="what is not read at all"),
        pytest.param("a: [\n", {"n": 1}, id="what is no YAML"),
    ],
)
def test_an_unknown_form_is_refused_and_not_guessed(text: str, patch: dict[str, Any]) -> None:
    with pytest.raises(Unpatchable):
        patched(text, patch)


# Texts as people write them: a value or an inner mapping a line, comments and blank lines anywhere, any quotes, any
# indentation. Each part is rendered with marks of its own, so that what was touched can be told.

_words = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True).filter(lambda word: word not in {"y", "n", "no", "on"})
_values = st.one_of(
    st.integers(-9, 9999).map(str),
    _words,
    _words.map(lambda word: f"'{word}'"),
    _words.map(lambda word: f'"{word}"'),
    st.sampled_from(["true", "null", "0.90", "1e-05", "{}", "[1, 2]"]),
)
_gaps = st.sampled_from([" ", "   ", "\t"])
_remarks = st.one_of(st.just(""), st.just("  "), _words.map(lambda word: f"  # {word} {{}}: 'x', \"y"))


@st.composite
def _flat_lines(draw: st.DrawFn, indent: str, least: int) -> list[str]:
    lines = []
    for name in draw(st.lists(_words, min_size=least, max_size=4, unique=True)):
        lines += draw(st.lists(st.sampled_from(["", f"{indent}# about {name}", "# far left"]), max_size=2))
        lines.append(f"{indent}{name}:{draw(_gaps)}{draw(_values)}{draw(_remarks)}")
    return lines


@st.composite
def _flow_lines(draw: st.DrawFn) -> list[str]:
    names = draw(st.lists(_words, max_size=4, unique=True))
    pairs = [f"{name}: {draw(_values)}" for name in names]
    if draw(st.booleans()):
        return [f"engine: {{{', '.join(pairs)}}}{draw(_remarks)}"]
    lines = [f"    {pair},{draw(_remarks)}" for pair in pairs]
    return [f"engine: {{{draw(_remarks)}", *lines, "  }  # done"]


@st.composite
def _texts(draw: st.DrawFn) -> str:
    lines = draw(_flat_lines("", 1))
    inner = draw(st.sampled_from(["none", "block", "flow"]))
    if inner == "block":
        lines += [f"engine:{draw(_remarks)}", *draw(_flat_lines(draw(st.sampled_from(["  ", "    "])), 1))]
    elif inner == "flow":
        lines += draw(_flow_lines())
    lines += ["# before the last", *draw(_flat_lines("", 0)), "# the end"]
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = newline.join(lines) + draw(st.sampled_from(["", newline]))
    return draw(st.sampled_from(["", "# head\n---\n"])) + text


_plain: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 10**6), st.booleans(), st.floats(0, 1e9), _words, st.text(max_size=5)
)
_inner_patches = st.dictionaries(
    _words, st.one_of(_plain, st.none(), st.dictionaries(_words, _plain, max_size=2)), max_size=3
)


@st.composite
def _texts_and_patches(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    text = draw(_texts().filter(lambda text: isinstance(yamlsafe.read(text.encode(), 10**6), yamlsafe.Document)))
    data = _data(text)
    patch: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(data)), max_size=2, unique=True)):
        patch[name] = draw(st.one_of(_plain, _inner_patches))
    patch |= {name: draw(_plain) for name in draw(st.lists(_words, max_size=1)) if name not in data}
    inner = data.get("engine")
    if isinstance(inner, dict):
        changes = draw(_inner_patches)
        for name in draw(st.lists(st.sampled_from(sorted(inner) or ["x"]), max_size=2)):
            changes[name] = draw(st.one_of(st.none(), _plain))
        patch["engine"] = changes
    return text, patch


def _comments(text: str) -> list[str]:
    return sorted("#" + part for line in text.splitlines() for part in line.split("#")[1:])


@settings(max_examples=150, deadline=None)
@given(_texts_and_patches())
def test_any_patch_says_what_was_asked_and_keeps_comments_and_other_lines(case: tuple[str, dict[str, Any]]) -> None:
    text, patch = case
    before = _data(text)
    try:
        after = patched(text, patch)
    except Unpatchable:
        # Text that no YAML may hold (control characters, half a surrogate) is the one thing that is not written.
        assert not _is_writable(patch)
        return
    assert _data(after) == merge_patch(before, patch)
    assert not Counter(_comments(text)) - Counter(_comments(after)), "a new value may hold a number sign of its own"
    touched = tuple(patch)
    untouched = [
        line
        for line in text.splitlines()
        if line and not line.startswith((" ", "\t", "}")) and not line.startswith(touched)
    ]
    assert [line for line in after.splitlines() if line in untouched] == untouched
    assert patched(after, patch) == after


def _is_writable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_writable(name) and _is_writable(inner) for name, inner in value.items())
    return not isinstance(value, str) or all(32 <= ord(sign) < 0x7F or 0xA0 <= ord(sign) < 0xD800 for sign in value)
