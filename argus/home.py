"""The state folder: its layout, its lock, its secrets, and the notes in `run/` that outlive a killed supervisor.

- `admin-token`, `demo-token`, `ray-token`: mode 0600
- `specs.git`, `ledger.sqlite`: the embedded spec repository and ledger
- `private/`: what users know as /private
- `logs/`: one file a process
- `run/<name>.json`: which process it is, so that a later command finds it
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from argus.errors import UpFailed
from argus.processes import Process
from reconciler.front.files import write_private

LOCK = "argus.lock"
_FOLDERS = ("logs", "run")


def prepare(home: Path, private_root: Path) -> None:
    """Make the folders that are missing, readable by this user alone. Raises UpFailed where the disk refuses.

    A private root outside the state folder is somebody else's (a shared disk): it is left as it is.
    """
    folders = [home, *(home / name for name in _FOLDERS)]
    if private_root.is_relative_to(home):
        folders += [private_root, private_root / "hf", private_root / "users"]
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UpFailed(f"cannot make the folder {folder}: {error.strerror}") from None
    # The mode counts only at creation; a folder that was there may be open to others, and holds keys.
    home.chmod(0o700)


def instance(home: Path) -> str:
    """Give the platform's id, eight hex digits of its state folder's path: two homes never share one in practice."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:8]


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the state folder. The kernel lets go of it when this process ends, however it ends.

    Raises UpFailed where another `argus up` holds it.
    """
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise UpFailed(
                f"another `argus up` runs on the state folder {home}; `argus down` stops it, --home chooses another"
            ) from None
        yield
    finally:
        os.close(descriptor)


def is_locked(home: Path) -> bool:
    """Say whether an `argus up` holds the state folder."""
    try:
        with locked(home):
            return False
    except UpFailed:
        return True
    except FileNotFoundError:
        return False


def keep_secret(path: Path) -> str:
    """Give the secret that the file holds, made at random (256 bits) where there is none."""
    with suppress(FileNotFoundError):
        if kept := path.read_text(encoding="utf-8").strip():
            path.chmod(0o600)
            return kept
    made = secrets.token_urlsafe(32)
    write_private(path, made)
    return made


def note(home: Path, name: str, process: Process, **facts: Any) -> None:
    """Note which process `name` is."""
    text = json.dumps({"pid": process.pid, "started": process.started, **facts})
    write_private(home / "run" / f"{name}.json", text + "\n")


def noted(home: Path, name: str) -> tuple[Process, dict[str, Any]] | None:
    """Read the note on `name`: the process (which need not run any more) and the facts. None where there is none."""
    try:
        facts = json.loads((home / "run" / f"{name}.json").read_text(encoding="utf-8"))
        return Process(int(facts.pop("pid")), int(facts.pop("started"))), facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def forget(home: Path, name: str) -> None:
    """Remove the note on `name`."""
    (home / "run" / f"{name}.json").unlink(missing_ok=True)
