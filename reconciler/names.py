"""The names people give: user ids, suffixes, and the one path that a model's spec has in the repository.

Everything here is lexical and total: no function raises, none looks at a disk.
"""

from __future__ import annotations

import hashlib
import re
import signal
from typing import NamedTuple

APP_NAME = "argus_llm_app"
"""The one Serve application; part of the API's promise."""

RECONCILER_SOCKET = "reconciler.sock"
"""Where the reconciler answers probes, in the state folder's `run`."""

LAST_SIGNAL = signal.SIGUSR1
"""Tells the reconciler that Ray ends after it: the answers of Ray's own front have to be ended before."""

USERS_FOLDER = "users"
SPEC_ENDING = ".yaml"

RULES_FILE = "argus.yaml"
"""What holds changes back for now, at the repository's root."""

LONGEST_SPELT = 2000
"""How many characters of a path are kept as they are (`spelt`)."""

SUFFIX_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""`model_id` as a user writes it: 1 to 63 characters, the first a letter or a digit."""

USER_ID_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?$"
"""1 to 40 characters. A user id is a folder name and part of every public model name."""

_SUFFIX = re.compile(SUFFIX_PATTERN.replace("$", r"\Z"))
_USER_ID = re.compile(USER_ID_PATTERN.replace("$", r"\Z"))

# A public model name is <user>-<YYYYMMDDHHMM>-<suffix>. A user called `a-202601010000` could spell the names
# of user `a`, so no user id may hold what reads as a minute: the first `-<12 digits>-` always ends the user.
_READS_AS_MINUTE = re.compile(r"-[0-9]{12}(?:-|\Z)")

USER_ID_RULE = (
    "1 to 40 of [a-z0-9._-], first and last a letter or a digit, without '..' and without '-' followed by twelve digits"
)
SUFFIX_RULE = "1 to 63 of [a-z0-9._-], the first a letter or a digit"


class SpecName(NamedTuple):
    """Whose model a spec file describes, and what its owner calls it."""

    user_id: str
    suffix: str


def is_user_id(text: str) -> bool:
    """Say whether `text` may be a user's id (`USER_ID_RULE`)."""
    return _USER_ID.match(text) is not None and ".." not in text and _READS_AS_MINUTE.search(text) is None


def is_suffix(text: str) -> bool:
    """Say whether `text` may be a model's suffix (`SUFFIX_RULE`)."""
    return _SUFFIX.match(text) is not None


def spec_path(user_id: str, suffix: str) -> str:
    """Give the repository path of a model's spec file."""
    return f"{USERS_FOLDER}/{user_id}/{suffix}{SPEC_ENDING}"


def split_path(path: str) -> SpecName | None:
    """Read a repository path as a spec file's; None where it is not one."""
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != USERS_FOLDER or not parts[2].endswith(SPEC_ENDING):
        return None
    user_id, suffix = parts[1], parts[2].removesuffix(SPEC_ENDING)
    return SpecName(user_id, suffix) if is_user_id(user_id) and is_suffix(suffix) else None


def spelt(path: str) -> str:
    """Spell a path of the repository in ASCII, whatever bytes git has there.

    Git bounds no path, and PostgreSQL keeps no key of more than 2,704 bytes: beyond `LONGEST_SPELT` characters it is
    cut, and a digest tells it from others that begin alike.
    """
    text = path.encode("ascii", "backslashreplace").decode()
    if len(text) <= LONGEST_SPELT:
        return text
    return f"{text[:LONGEST_SPELT]}~{hashlib.sha256(text.encode()).hexdigest()}"


def user_of_path(path: str) -> str | None:
    """Give the user in whose folder `path` lies; None outside `users/<user_id>/`."""
    parts = path.split("/")
    if len(parts) < 3 or parts[0] != USERS_FOLDER:
        return None
    return parts[1] if is_user_id(parts[1]) else None
