"""Reading YAML that a stranger wrote: bytes in, plain data with its places out, or one reason why not.

The subset is what a person needs for a flat settings file, and JSON: one document, one mapping, YAML 1.2 core schema
(`yes`, `on`, `1:30` and dates stay text). Whatever makes a small file large or a harmless word an object is refused
while it is still a stream of parse events: anchors, aliases, merge keys, tags, duplicate keys, deep nesting.

Nothing here knows what a spec is, nothing raises, and no message holds more of the file than one short name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

if yaml.__with_libyaml__:
    from yaml._yaml import CParser

MAX_DEPTH = 16
"""How many mappings and lists may lie inside each other."""
MAX_NODES = 2000
"""Keys, values, mappings and lists together."""
MAX_SCALAR = 4096
"""Characters in one key or value."""
MAX_NUMBER = 40
"""Characters in one number: the time that Python takes to read an integer grows with the square of its length."""

Path: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True, slots=True)
class Document:
    """One mapping of plain data, and where in the text its fields stand."""

    data: dict[str, Any]
    marks: Mapping[Path, Any]

    def place(self, path: Path) -> Place | tuple[None, None]:
        """Say where the name of the field at `path` stands (or the item, in a list); else the nearest one above it."""
        while path and path not in self.marks:
            path = path[:-1]
        return (self.marks[path].line + 1, self.marks[path].column + 1) if path else (None, None)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the bytes were not read. `field` is dotted, None where the trouble lies outside every field."""

    message: str
    field: str | None = None
    line: int | None = None
    column: int | None = None


class _PureParser(Reader, Scanner, Parser):
    """PyYAML's own parser, for machines whose PyYAML was built without libyaml. Ten times slower."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


PURE: Callable[[str], Any] = _PureParser
FASTEST: Callable[[str], Any] = CParser if yaml.__with_libyaml__ else _PureParser


def read(data: bytes, max_bytes: int, parser: Callable[[str], Any] = FASTEST) -> Document | Refused:
    """Read one mapping. Total: any bytes give a value.

    A byte order mark at the very start is tolerated (editors on Windows write it); every other encoding than UTF-8 is
    refused. `parser` is one of `FASTEST` and `PURE`, which agree on everything but where a tab may stand.
    """
    text = _text(data, max_bytes)
    if isinstance(text, Refused):
        return text
    try:
        return _Builder(parser(text)).document()
    except _RefusedError as refusal:
        return refusal.why
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        return Refused(f"this is not valid YAML: {shorten(error.problem or 'it ends too early')}", None, *place)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The parsers hand escapes such as "\UFFFFFFFF" to chr() unchecked.
        return Refused(f"this is not valid YAML ({type(error).__name__})")


def shorten(text: str, most: int = 80) -> str:
    """Cut `text` to `most` characters, the last one `…` where something is missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def kind_of(value: object) -> str:
    """Name the type of a piece of plain data as people call it."""
    return _KINDS.get(type(value), "a value of an unknown kind")


def shown(value: object) -> str:
    """Show a scalar, at most 80 characters of it, with its type; of a mapping or a list only that it is one.

    Text is shown as `quoted` does.
    """
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f"{quoted(value)} (text)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, int | float):
        return f"{shorten(str(value))} ({kind_of(value)})"
    return kind_of(value)


def quoted(text: str) -> str:
    """Quote text so that no character of it can change what the line around it looks like, and shorten it.

    URLs may hold credentials: only their scheme is shown.
    """
    scheme, is_url, _ = text.partition("://")
    return shorten(repr(f"{scheme}://…" if is_url else text[:200]))


def dotted(path: Path) -> str | None:
    """Write a path as people do (`engine_kwargs.seed`); None for the document itself."""
    return ".".join(_name(part) for part in path) or None


def _name(part: str | int) -> str:
    return shorten(part if isinstance(part, str) and part.isprintable() else repr(part), 40)


_KINDS: dict[type, str] = {
    type(None): "nothing (null)",
    str: "text",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction or an exponent",
    list: "a list",
    dict: "a mapping",
}


def _text(data: bytes, max_bytes: int) -> str | Refused:
    if len(data) > max_bytes:
        return Refused(f"the document has {len(data)} bytes; {max_bytes} is the most")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Refused(f"the document is not UTF-8 text (byte {error.start + 1})", line=line)
    if found := _NOT_YAML.search(text):
        line, column = _place_of(text, found.start())
        return Refused(f"the document holds the control character U+{ord(found[0]):04X}", line=line, column=column)
    return _SURROGATES.sub(_join_surrogates, text) if "\\u" in text else text


# What YAML 1.2 calls not printable (c-printable, 5.1).
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# JSON writes what lies beyond U+FFFF as two escapes; YAML wants one. An even number of backslashes before is text.
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

# YAML 1.2, 10.3.2: the core schema.
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBER_STARTS = frozenset("+-.0123456789")
_DECIMAL = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")


class _RefusedError(Exception):
    """Carries a refusal out of the recursion; never leaves this module."""

    def __init__(self, why: Refused) -> None:
        super().__init__(why.message)
        self.why = why


class _Builder:
    """Builds plain data from one parser's events."""

    __slots__ = ("_marks", "_next", "_nodes")

    def __init__(self, parser: Any) -> None:
        self._next: Callable[[], Any] = parser.get_event
        self._nodes = 0
        self._marks: dict[Path, Any] = {}

    def document(self) -> Document:
        self._next()  # the start of the stream
        start = self._next()
        if type(start) is StreamEndEvent:
            raise _RefusedError(Refused("the document is empty"))
        if start.tags:
            _refuse("tag directives (%TAG) are not allowed; remove the line", start, ())
        root = self._next()
        data = self._node(root, ())
        if type(root) is not MappingStartEvent:
            given = f"only {kind_of(data)}" if data is not None else "nothing"
            _refuse(f"the document must hold fields (name: value) and holds {given}", root, ())
        self._next()  # the end of the document
        after = self._next()
        if type(after) is not StreamEndEvent:
            _refuse("a second document starts here (---); one file holds one document", after, ())
        return Document(data, self._marks)

    def _node(self, event: Any, path: Path) -> Any:
        kind = type(event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(f"the document has more than {MAX_NODES} values", event, path)
        if kind is AliasEvent:
            _refuse("aliases (*name) are not allowed; write the value out", event, path)
        if event.anchor is not None:
            _refuse("anchors (&name) are not allowed; write the value out wherever it is needed", event, path)
        if event.tag is not None:
            _refuse("tags (!name) are not allowed; remove it", event, path)
        if kind is ScalarEvent:
            return _scalar(event, path)
        if len(path) >= MAX_DEPTH:
            _refuse(f"mappings and lists lie more than {MAX_DEPTH} deep in each other", event, path)
        return self._mapping(path) if kind is MappingStartEvent else self._list(path)

    def _mapping(self, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        while type(event := self._next()) is not MappingEndEvent:
            if type(event) is MappingStartEvent or type(event) is SequenceStartEvent:
                _refuse("the name of a field must be text, not a mapping or a list", event, path)
            key = self._node(event, path)
            if type(key) is not str:
                _refuse(f"the name of a field must be text, not {kind_of(key)}; put it in quotes", event, path)
            if key == "<<" and not event.style:
                _refuse("merge keys (<<) are not allowed; write the fields out", event, path)
            here = (*path, key)
            if key in built:
                first = self._marks[here].line + 1
                _refuse(f"given twice (first in line {first}); keep one", event, here)
            self._marks[here] = event.start_mark
            built[key] = self._node(self._next(), here)
        return built

    def _list(self, path: Path) -> list[Any]:
        built: list[Any] = []
        while type(event := self._next()) is not SequenceEndEvent:
            here = (*path, len(built))
            self._marks[here] = event.start_mark
            built.append(self._node(event, here))
        return built


def _scalar(event: Any, path: Path) -> str | int | float | bool | None:
    text: str = event.value
    if len(text) > MAX_SCALAR:
        _refuse(f"a name or value has {len(text)} characters; {MAX_SCALAR} is the most", event, path)
    if event.style:  # quoted or a block
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            _refuse("text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character", event, path)
        return text
    if not event.implicit[0]:  # `! text`: libyaml drops this tag and leaves only this trace
        _refuse("tags (!) are not allowed; remove it", event, path)
    if text in _WORDS:
        return _WORDS[text]
    return _number(text, event, path) if text[0] in _NUMBER_STARTS else text


def _number(text: str, event: Any, path: Path) -> str | int | float:
    for grammar, base in ((_DECIMAL, 10), (_OCTAL, 8), (_HEXADECIMAL, 16), (_FLOAT, 0)):
        if grammar.match(text):
            if len(text) > MAX_NUMBER:
                _refuse(f"a number has {len(text)} characters; {MAX_NUMBER} is the most", event, path)
            return int(text, base) if base else float(text)
    return text


def _refuse(message: str, event: Any, path: Path) -> NoReturn:
    mark = event.start_mark
    raise _RefusedError(Refused(message, dotted(path), mark.line + 1, mark.column + 1))


def _join_surrogates(found: re.Match[str]) -> str:
    high, low = int(found[2], 16), int(found[3], 16)
    return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _place_of(text: str, index: int) -> Place:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)
