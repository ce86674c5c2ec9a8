"""Where names and values stand in a YAML text, and single changes made there. Every other character stays as it is.

Each function takes a text and gives the text after one change. A place is a path of names from the document's one
mapping inwards. Whatever has a form that is not known here raises Unpatchable; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, TypeAlias

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from reconciler.errors import ArgusError

Path: TypeAlias = tuple[str, ...]
Pair: TypeAlias = tuple[Node, Node]

# libyaml agrees with `reconciler.yamlsafe` on where a tab may stand; Python's own parser is stricter.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INDENT = "  "
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
_COMMENT = re.compile(r"#[^\r\n]*")
_COMMA = re.compile(r"(?:\s|#[^\n]*(?:\n|\Z))*,")


class Unpatchable(ArgusError):
    """The text is written in a way that cannot be changed value by value."""

    code = "unpatchable"


def replace(text: str, path: Path, value: Any) -> str:
    """Write `value` where another value stands, scalar or in one line."""
    _, (key, old) = _find(text, path)
    written = _written(value, bare=not _is_json(text))
    start, end = old.start_mark.index, _end(text, old)
    if not text[start:end].strip():  # `name:` with nothing behind it
        after = _colon(text, key) + 1
        return f"{text[:after]} {written}{text[after:]}"
    if isinstance(old, CollectionNode) and not old.flow_style:
        raise Unpatchable("a block of several lines cannot be replaced by one value")
    return text[:start] + written + text[end:]


def add(text: str, path: Path, value: Any) -> str:
    """Write a new name and its value behind the last ones of their mapping."""
    mapping = _mapping(text, path[:-1])
    if mapping.flow_style:
        return _add_to_flow(text, mapping, path[-1], value)
    first, last = mapping.value[0], mapping.value[-1]
    at = _line_end(text, _pair_end(text, last))
    indent = " " * first[0].start_mark.column
    lines = _block(path[-1], value, indent)
    return text[:at] + "".join(_newline(text) + line for line in lines) + text[at:]


def remove(text: str, path: Path) -> str:
    """Take a name and its value away. Comments beside and inside them stay, on lines of their own."""
    mapping, pair = _find(text, path)
    if mapping.flow_style:
        return _remove_from_flow(text, mapping, pair)
    emptied = len(mapping.value) == 1
    start, end = pair[0].start_mark.index, _pair_end(text, pair)
    line = _line_start(text, start)
    indent = text[line:start]
    if indent.strip() or (emptied and len(path) == 1):
        raise Unpatchable("the entry does not stand on lines of its own")
    newline = _newline(text)
    comments = [*_comments(text, pair), *_COMMENT.findall(text, end, _line_end(text, end))]
    kept = "".join(f"{indent}{comment}{newline}" for comment in comments)
    without = text[:line] + kept + text[_next_line(text, end) :]
    if not emptied:
        return without
    _, (parent, _) = _find(text, path[:-1])
    after = _colon(text, parent) + 1
    return f"{without[:after]} {{}}{without[after:]}"


def _add_to_flow(text: str, mapping: MappingNode, name: str, value: Any) -> str:
    bare = not _is_json(text)
    entry = f"{_written(name, bare=bare)}: {_written(value, bare=bare)}"
    if not mapping.value:
        at = mapping.start_mark.index + 1
        return text[:at] + entry + text[at:]
    last = mapping.value[-1]
    start, at = last[0].start_mark.index, _pair_end(text, last)
    line = _line_start(text, start)
    on_its_own_line = line > mapping.start_mark.index and not text[line:start].strip()
    between = f",{_newline(text)}{text[line:start]}" if on_its_own_line else ", "
    comma = _COMMA.match(text, at)
    if comma is not None:  # one that leads nowhere, as YAML allows: the new entry goes behind it
        return text[: comma.end()] + between[1:] + entry + text[comma.end() :]
    return text[:at] + between + entry + text[at:]


def _remove_from_flow(text: str, mapping: MappingNode, pair: Pair) -> str:
    index = mapping.value.index(pair)
    start, end = pair[0].start_mark.index, _pair_end(text, pair)
    kept = "".join(comment + _newline(text) for comment in _comments(text, pair))
    after = _COMMA.match(text, end)
    if after is not None:
        gap = text[end : after.end() - 1]
        return _cut(text[:start] + kept + gap.strip(" "), text[after.end() :])
    head = text[:start]
    if index > 0:
        before = _COMMA.match(text, _pair_end(text, mapping.value[index - 1]))
        if before is None:
            raise Unpatchable("there is no comma between two entries")
        head = text[: before.end() - 1] + text[before.end() : start].rstrip(" ")
    return _cut(head + kept, text[end:])


def _cut(head: str, tail: str) -> str:
    """Join what was around an entry, without leaving an empty line or two blanks where it stood."""
    line_before = head[head.rfind("\n") + 1 :]
    line_after = tail.partition("\n")[0]
    if not line_before.strip() and not line_after.strip() and "\n" in head and "\n" in tail:
        return head[: head.rfind("\n") + 1] + tail.partition("\n")[2]
    return head + (tail.lstrip(" ") if head[-1:] in {" ", "{"} else tail)


# --- places -------------------------------------------------------------------------------------------------------


def _mapping(text: str, path: Path) -> MappingNode:
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError:
        raise Unpatchable("the text is not one YAML document") from None
    for name in path:
        pairs = node.value if isinstance(node, MappingNode) else []
        node = next((value for key, value in pairs if key.value == name), None)
    if not isinstance(node, MappingNode):
        raise Unpatchable("there is no mapping at this place")
    return node


def _find(text: str, path: Path) -> tuple[MappingNode, Pair]:
    mapping = _mapping(text, path[:-1])
    for pair in mapping.value:
        if pair[0].value == path[-1]:
            return mapping, pair
    raise Unpatchable("there is no such name")


def _end(text: str, node: Node) -> int:
    """Find where a node ends: the place behind its last character.

    A parser ends a block only where the next thing begins, behind blank lines and comments; the end of the block's
    last value is the truth. A block scalar ends with the last character of its text.
    """
    end: int = node.end_mark.index
    if isinstance(node, ScalarNode):
        return len(text[:end].rstrip()) if node.style in {"|", ">"} else end
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return end
    last = node.value[-1]
    return _pair_end(text, last) if isinstance(last, tuple) else _end(text, last)


def _pair_end(text: str, pair: Pair) -> int:
    return max(_end(text, pair[1]), _colon(text, pair[0]) + 1)


def _colon(text: str, key: Node) -> int:
    found = text.find(":", key.end_mark.index)
    if found < 0 or text[key.end_mark.index : found].strip():
        raise Unpatchable("there is no colon behind a name")
    return found


def _comments(text: str, pair: Pair) -> Iterator[str]:
    """Give the comments between a name and the end of its value: outside of scalars every `#` begins one."""
    leaves = sorted((leaf.start_mark.index, _end(text, leaf)) for node in pair for leaf in _leaves(node))
    for (_, end), (start, _) in pairwise(leaves):
        yield from _COMMENT.findall(text, end, start)
    yield from _COMMENT.findall(text, leaves[-1][1], _pair_end(text, pair))


def _leaves(node: Node) -> Iterator[Node]:
    if not isinstance(node, CollectionNode):
        yield node
        return
    for item in node.value:
        for inner in item if isinstance(item, tuple) else (item,):
            yield from _leaves(inner)


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _next_line(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    end = len(text) if found < 0 else found
    return end - 1 if end > index and text[end - 1] == "\r" else end


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# --- writing ------------------------------------------------------------------------------------------------------


def _is_json(text: str) -> bool:
    root = _mapping(text, ())
    return bool(root.flow_style) and all(key.style == '"' for key, _ in root.value)


def _written(value: Any, *, bare: bool) -> str:
    """Write plain data in one line that means the same in a block and in a flow. It is JSON, but for `bare` words."""
    if isinstance(value, Mapping):
        members = (f"{_written(name, bare=bare)}: {_written(each, bare=bare)}" for name, each in value.items())
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(each, bare=bare) for each in value) + "]"
    if bare and isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value)


def _block(name: str, value: Any, indent: str) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        return [f"{indent}{_written(name, bare=True)}: {_written(value, bare=True)}"]
    inner = (_block(each, item, indent + _INDENT) for each, item in value.items())
    return [f"{indent}{_written(name, bare=True)}:", *(line for lines in inner for line in lines)]
