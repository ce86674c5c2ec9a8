"""Promises of the restricted YAML reader. Where both parsers are at hand, each promise is asked of both."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.yamlsafe import FASTEST, MAX_DEPTH, MAX_NODES, PURE, Document, Refused, dotted, read, shown

Parser = Callable[[str], Any]
LIMIT = 65536


@pytest.fixture(params=[FASTEST, PURE], ids=["fastest", "pure"])
def parser(request: pytest.FixtureRequest) -> Parser:
    chosen: Parser = request.param
    return chosen


def data_of(text: str, parser: Parser = FASTEST) -> dict[str, Any]:
    document = read(text.encode(), LIMIT, parser)
    assert isinstance(document, Document), document
    return document.data


def refusal_of(data: str | bytes, parser: Parser = FASTEST) -> Refused:
    refused = read(data.encode() if isinstance(data, str) else data, LIMIT, parser)
    assert isinstance(refused, Refused), refused
    return refused


def test_the_fast_parser_is_libyaml_where_pyyaml_has_it() -> None:
    assert (FASTEST is not PURE) == yaml.__with_libyaml__


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True), ("False", False), ("TRUE", True), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"),
        ("y", "y"), ("null", None), ("~", None), ("Null", None), ("", None), ("nil", "nil"),
        ("1", 1), ("-1", -1), ("+7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("1_000", "1_000"),
        ("1.5", 1.5), ("9e-1", 0.9), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-2.0E+1", -20.0), ("1.2.3", "1.2.3"),
        (".inf", math.inf), ("-.INF", -math.inf), ("1:30", "1:30"), ("190:20:30", "190:20:30"),
        ("2026-01-06", "2026-01-06"), ("2026-01-06T12:30:00Z", "2026-01-06T12:30:00Z"), ("=", "="), ("-", [None]),
        ("'1'", "1"), ('"true"', "true"), ("'null'", "null"), ("|-\n  7", "7"), ("a b", "a b"), ("[1, a]", [1, "a"]),
        ("{b: {c: 1}}", {"b": {"c": 1}}), ('"\\u00e9\\/\\x41"', "é/A"), ('"\\ud83d\\ude00"', "😀"),
        ('"\\\\ud83d"', "\\ud83d"),
    ],
)  # fmt: skip
def test_values_are_read_by_the_core_schema_of_yaml_1_2(written: str, value: object, parser: Parser) -> None:
    read_value = data_of(f"a:\n {written}" if written == "-" else f"a: {written}", parser)["a"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_not_a_number_is_read_as_one_for_its_field_to_refuse() -> None:
    assert math.isnan(data_of("a: .nan")["a"])


@pytest.mark.parametrize(
    ("text", "words", "field", "place"),
    [
        ("", "empty", None, (None, None)),
        ("# only a comment\n", "empty", None, (None, None)),
        ("---\n", "holds nothing", None, (2, 1)),
        ("- a\n- b\n", "a list", None, (1, 1)),
        ("just words\n", "text", None, (1, 1)),
        ("a: 1\nb: &x 2\n", "anchors", "b", (2, 4)),
        ("a: 1\nb: &x {c: 2}\n", "anchors", "b", (2, 4)),
        ("&x a: 1\n", "anchors", None, (1, 1)),
        ("a: *x\n", "aliases", "a", (1, 4)),
        ("a: [1, *x]\n", "aliases", "a.1", (1, 8)),
        ("a: {<<: {b: 1}}\n", "merge keys", "a", (1, 5)),
        ("a: !!int '1'\n", "tags", "a", (1, 4)),
        ("a: !!python/object/apply:os.system ['id']\n", "tags", "a", (1, 4)),
        ("a: ! 1\n", "tags", "a", (1, 4)),
        ("!x a: 1\n", "tags", None, (1, 1)),
        ("!x {a: 1}\n", "tags", None, (1, 1)),
        ("%TAG ! tag:x,2026:\n---\na: 1\n", "%TAG", None, (None, 1)),
        ("a: 1\nb: 2\na: 3\n", "given twice (first in line 1)", "a", (3, 1)),
        ("a:\n  b: 1\n  'b': 2\n", "given twice (first in line 2)", "a.b", (3, 3)),
        ("a: [{b: 1, b: 2}]\n", "given twice", "a.0.b", (1, 12)),
        ("a: 1\n---\nb: 1\n", "second document", None, (2, 1)),
        ("1: a\n", "must be text, not a whole number", None, (1, 1)),
        ("true: a\n", "must be text, not a boolean", None, (1, 1)),
        ("~: a\n", "must be text, not nothing", None, (1, 1)),
        ("? [a]\n: 1\n", "must be text, not a mapping or a list", None, (1, 3)),
        ("a: 1\nb: c: d\n", "not valid YAML", None, (2, 5)),
        ("a: [1\n", "not valid YAML", None, (2, 1)),
        ("a: 1\n b: 2\n", "not valid YAML", None, (2, 3)),
        ('a: "\\q"\n', "not valid YAML", None, (1, None)),
        ("a: 1\nb: \x07\n", "control character U+0007", None, (2, 4)),
        ("a: 1\nb: x\x00\n", "control character U+0000", None, (2, 5)),
        ("a: " + "1" * 41, "a number has 41 characters", "a", (1, 4)),
        ("a: " + "x" * 4097, "4097 characters; 4096 is the most", "a", (1, 4)),
    ],
)
def test_what_is_refused_is_refused_with_its_place(
    text: str, words: str, field: str | None, place: tuple[int | None, int | None], parser: Parser
) -> None:
    refused = refusal_of(text, parser)
    assert words in refused.message
    assert refused.field == field
    # The two parsers place the end of what is broken a little differently: None is not asked.
    assert place[0] in {None, refused.line}
    assert place[1] in {None, refused.column}


def test_half_a_surrogate_pair_is_no_text(parser: Parser) -> None:
    refusal_of('a: "\\ud83d"', parser)
    refusal_of('a: "\\ude00\\ud83d"', parser)


def test_an_escape_beyond_unicode_is_refused(parser: Parser) -> None:
    refusal_of('a: "\\UFFFFFFFF"', parser)


def test_other_encodings_than_utf_8_are_refused_with_the_line() -> None:
    refused = refusal_of(b"a: 1\nb: \xff\n")
    assert "not UTF-8" in refused.message
    assert refused.line == 2
    refusal_of("a: 1".encode("utf-16"))


def test_a_byte_order_mark_at_the_start_is_tolerated(parser: Parser) -> None:
    assert data_of("\ufeffa: 1\n", parser) == {"a": 1}


def test_a_document_above_the_size_is_refused_before_it_is_read() -> None:
    refused = read(b"a: &x [" + b"x" * 100, 50)
    assert refused == Refused("the document has 107 bytes; 50 is the most")


def test_nesting_ends_at_the_cap(parser: Parser) -> None:
    def nested(depth: int) -> str:
        return "{a: " * depth + "1" + "}" * depth

    data_of(nested(MAX_DEPTH), parser)
    assert f"more than {MAX_DEPTH} deep" in refusal_of(nested(MAX_DEPTH + 1), parser).message
    assert f"more than {MAX_DEPTH} deep" in refusal_of("a: " + "[" * (MAX_DEPTH + 5), parser).message


def test_the_number_of_values_ends_at_the_cap(parser: Parser) -> None:
    # The mapping, its one key, the list and the items: 3 + n.
    data_of("a: [" + "1," * (MAX_NODES - 3) + "]", parser)
    assert f"more than {MAX_NODES}" in refusal_of("a: [" + "1," * (MAX_NODES - 2) + "]", parser).message


@pytest.mark.parametrize(
    "piece", ["[", "{", "- ", "? ", "{a: ", "[a, ", "'", '"\\', "%YAML 1.1\n", "|\n ", "\\u", "&a ["]
)
def test_hostile_repetition_ends_in_a_refusal(piece: str) -> None:
    refusal_of((piece * LIMIT)[:LIMIT])


def test_a_refusal_does_not_repeat_the_file() -> None:
    secret = "hf_" + "S3CRET" * 20
    for text in (f"a: !{secret} 1", f"a: &{secret} 1", f"a: *{secret}", f"a: 1\n{secret}", f"a: [{secret}"):
        assert "S3CRET" not in refusal_of(text).message


def test_names_and_values_cannot_forge_a_line_of_a_message() -> None:
    refused = refusal_of('{"a\\nb: fine": {"x": 1, "x": 2}}')
    assert refused.field is not None
    assert "\n" not in refused.field
    assert "\n" not in shown("a\nb")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing (null)"), (True, "true (a boolean)"), (3, "3 (a whole number)"),
        (1.5, "1.5 (a number with a fraction or an exponent)"), ("x", "'x' (text)"), ([1], "a list"),
        ({"secret": 1}, "a mapping"), ("https://u:pw@host/x", "'https://…' (text)"),
        (object(), "a value of an unknown kind"),
    ],
)  # fmt: skip
def test_values_are_shown_with_their_type_and_without_credentials(value: object, text: str) -> None:
    assert shown(value) == text


def test_long_text_is_shown_in_eighty_characters() -> None:
    assert len(shown("x" * 5000)) == 80 + len(" (text)")


def test_a_place_is_that_of_the_nearest_known_field_above() -> None:
    document = read(b"a:\n  b: 1\n", LIMIT)
    assert isinstance(document, Document)
    assert document.place(("a", "b")) == (2, 3)
    assert document.place(("a", "c", "d")) == (1, 1)
    assert document.place(("z",)) == (None, None)
    assert dotted(("a", 0, "b")) == "a.0.b"


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_give_a_value(data: bytes) -> None:
    assert isinstance(read(data, LIMIT), Document | Refused)
    assert isinstance(read(data, LIMIT, PURE), Document | Refused)


YAMLISH = st.lists(
    st.sampled_from(
        ["a", "b", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "'", '"', "&x ", "*x", "!t ", "? ", "|", ">", "#",
         "<<", "\t", "---\n", "...\n", "%YAML 1.2\n", "\\", "\\u12", "\\UFFFFFFFF", "1", ".", "e9", "\ufeff", "\x85",
         "\u2028", "é"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(YAMLISH)
@settings(deadline=None, max_examples=400)
def test_any_yaml_like_text_gives_a_value(text: str) -> None:
    for parser in (FASTEST, PURE):
        assert isinstance(read(text.encode(), LIMIT, parser), Document | Refused)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<-1.~", max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcxyz_", max_size=5), JSON_VALUES, max_size=5), st.booleans(), st.booleans())
@settings(deadline=None)
def test_json_reads_as_what_json_says(value: dict[str, Any], is_ascii: bool, is_indented: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=2 if is_indented else None)
    for parser in (FASTEST, PURE):
        assert data_of(text, parser) == value
