"""Git's objects as bytes (gitformat-pack, and the tree format), for the writes that no single git command does. Pure.

Other people's entries are carried through untouched, whatever bytes their names are.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["blob", "tree", "commit"]

FOLDER_MODE = b"40000"
FILE_MODE = b"100644"

_PACK_KINDS = {"commit": 1, "tree": 2, "blob": 3}


class TreeEntry(NamedTuple):
    """One entry of a tree: git's mode in octal digits without leading zeros, the name, the id's 20 bytes."""

    mode: bytes
    name: bytes
    id: bytes


def object_id(kind: Kind, content: bytes) -> str:
    """Give the SHA-1 that git knows an object by."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def parse_tree(content: bytes) -> list[TreeEntry]:
    """Read a tree's entries in their order. Raises ValueError on what is no tree."""
    entries = []
    position = 0
    while position < len(content):
        space = content.index(b" ", position)
        end = content.index(b"\0", space)
        entries.append(TreeEntry(content[position:space], content[space + 1 : end], content[end + 1 : end + 21]))
        position = end + 21
    return entries


def tree_with(content: bytes, name: bytes, entry: TreeEntry | None) -> bytes:
    """Give a tree with `entry` (None: nothing) under `name`, and every other entry as it was."""
    entries = [other for other in parse_tree(content) if other.name != name]
    if entry is not None:
        entries.append(entry)
    return tree_of(entries)


def tree_of(entries: Iterable[TreeEntry]) -> bytes:
    """Give the tree that holds `entries`, whose names differ."""
    return b"".join(b"%s %s\0%s" % found for found in sorted(entries, key=_order))


def _order(entry: TreeEntry) -> bytes:
    """Sort as git does: a folder as if its name ended in a slash."""
    return entry.name + b"/" if entry.mode == FOLDER_MODE else entry.name


def pack(objects: Sequence[tuple[Kind, bytes]]) -> bytes:
    """Put objects into a pack, version 2, no deltas, so that one git process stores them all."""
    parts = [b"PACK", (2).to_bytes(4, "big"), len(objects).to_bytes(4, "big")]
    for kind, content in objects:
        size = len(content)
        head, size = (_PACK_KINDS[kind] << 4) | (size & 0x0F), size >> 4
        header = bytearray()
        while size:
            header.append(head | 0x80)
            head, size = size & 0x7F, size >> 7
        header.append(head)
        parts += [bytes(header), zlib.compress(content, 1)]
    packed = b"".join(parts)
    return packed + hashlib.sha1(packed, usedforsecurity=False).digest()
