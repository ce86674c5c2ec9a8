"""A JSON merge patch on a person's YAML text: what the patch does not name stays as it was written, to the character.

The text is never dumped anew: a parser says where each value stands, and the change is made there (`yamltext`), so that
comments, order, quotes, indentation and line ends survive. A round trip through ruamel.yaml was the other road; it
loses alignment (`num_replicas:   2`), the blanks of `{ a: 1 }` and CRLF.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reconciler import yamlsafe
from reconciler.spec import merge_patch
from webapi import yamltext
from webapi.yamltext import Unpatchable

_BOM = "\ufeff"
_MISSING: Any = object()


def patched(text: str, patch: Mapping[str, Any]) -> str:
    """Apply a JSON merge patch (RFC 7396) to the text of one YAML mapping.

    A member of `patch` replaces a value, adds it where it is missing (behind the last one), and removes it where it is
    null; mappings are merged. A value that is equal already keeps the way it is written, and so does every comment.

    Args:
        text: The document. Anything but what `yamlsafe.read` reads is Unpatchable.
        patch: Plain JSON data.

    Raises:
        Unpatchable: The document cannot be read, or has a form that is not known (explicit `? name` entries).
    """
    bom, body = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    result = bom + _apply(body, (), patch)
    if _canonical(_read(result)) != _canonical(merge_patch(_read(text), patch)):
        raise Unpatchable("the text after the change does not say what was asked for")
    return result


def _apply(text: str, path: yamltext.Path, patch: Mapping[str, Any]) -> str:
    """Make the changes one after the other: each looks for its place in the text that the one before has left."""
    for name, value in patch.items():
        here = (*path, name)
        before = _lookup(_read(text), here)
        if value is None:
            text = text if before is _MISSING else yamltext.remove(text, here)
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            text = _apply(text, here, value)
        else:
            text = _put(text, here, before, merge_patch({"": None}, {"": value})[""])
    return text


def _put(text: str, path: yamltext.Path, before: Any, value: Any) -> str:
    if before is _MISSING:
        return yamltext.add(text, path, value)
    return text if _canonical(before) == _canonical(value) else yamltext.replace(text, path, value)


def _read(text: str) -> dict[str, Any]:
    data = text.encode(errors="surrogatepass")
    read = yamlsafe.read(data, max_bytes=len(data))
    if isinstance(read, yamlsafe.Refused):
        raise Unpatchable(read.message)
    return read.data


def _lookup(data: Any, path: yamltext.Path) -> Any:
    for name in path:
        if not isinstance(data, Mapping) or name not in data:
            return _MISSING
        data = data[name]
    return data


def _canonical(data: Any) -> str:
    """Write data so that equal texts are equal values: to JSON, 1, 1.0 and true are three."""
    return json.dumps(data, sort_keys=True)
