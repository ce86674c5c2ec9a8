"""Secrets for what is sent: read at each use, so that a file that is replaced counts from the next request on.

No error repeats what a file holds.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from reconciler.shell.outbox.destination import Unready

LONGEST_FILE = 8192
PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64
"""A signing secret's length (Standard Webhooks 1.0, "Signature scheme")."""


def token(given: str | None, file: Path | None, where: str) -> str:
    """Give the token that was `given`, or else the one in `file`. `where` names the key. Raises Unready."""
    if given is None and file is None:
        raise Unready(f"there is no token: set {where}, or its environment variable")
    found = (given if given is not None else _read(file, where)).strip()
    if not found or len(found) > LONGEST_FILE or not found.isascii() or not found.isprintable() or " " in found:
        raise Unready(f"{where} holds no token: right would be printable ASCII characters in one line")
    return found


def signing_keys(file: Path, where: str) -> list[bytes]:
    """Give the keys in a file, `whsec_` and base64, one a line. Raises Unready."""
    keys = [_key(line, where) for line in _read(file, where).split()]
    if not keys:
        raise _no_key(where)
    return keys


def _key(line: str, where: str) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise _no_key(where) from None
    if not line.startswith(PREFIX) or not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise _no_key(where)
    return key


def _no_key(where: str) -> Unready:
    return Unready(
        f"{where} holds no signing secret: right would be '{PREFIX}' and {FEWEST_BYTES} to {MOST_BYTES} bytes in "
        "base64, one secret a line"
    )


def _read(file: Path | None, where: str) -> str:
    if file is None:
        return ""
    try:
        with file.open(encoding="ascii") as opened:
            return opened.read(LONGEST_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise Unready(f"{where} cannot be read: {type(error).__name__}") from None
