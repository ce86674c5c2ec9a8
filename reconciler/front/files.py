"""The front's folder: private files written whole or not at all, and sockets whose paths may be long."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ADMIN_SOCKET = "admin.sock"
BODIES_SOCKET = "bodies.sock"
DESK_SOCKET = "desk.sock"
INNER_SOCKET = "inner.sock"
LOST_SOCKET = "lost.sock"


def folder(home: Path) -> Path:
    """Say where the front's files lie."""
    return home / "front"


def make_folder(home: Path) -> Path:
    """Make the front's folder, or close the one that is there to everybody else."""
    path = folder(home)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


@contextmanager
def short(folder: Path) -> Iterator[str]:
    """Give a path to the folder that is short however deep it lies: a unix socket's path has 107 bytes.

    It is good in this process, and until the end of the block.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
