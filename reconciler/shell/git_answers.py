"""What git answers, as values: outcomes of commands, descriptions of objects, and what its words tell.

What a command prints was written by strangers: it is parsed by position, decoded with replacement characters, and never
repeated in an error but for one scrubbed line of git's own words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.errors import SourceUnreachable

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")
_DAMAGE = re.compile(
    rb"corrupt|is empty|bad object|bad ref|bad tree|broken|unable to read|inflate|could not parse"
    rb"|missing (?:blob|tree|commit)|garbage|object file|does not match index|unable to unpack|cannot be read"
    rb"|not in the spec repository|: bad file|unable to stream|unable to open loose object"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_OBJECT_ID = re.compile(r"[0-9a-f]{40}\Z")
_MESSAGE_LIMIT = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one git command left: its exit status and what it printed."""

    status: int
    out: bytes
    err: bytes

    @property
    def complaint(self) -> str:
        """The first line of git's own complaint, scrubbed; what a remote's hooks say is left out."""
        lines = [line for line in self.err.decode(errors="replace").splitlines() if not line.startswith("remote:")]
        said = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or ["no reason given"]
        return scrub(said[0])

    @property
    def tells_of_damage(self) -> bool:
        """Say whether git complains of what lies on this disk, as after a power failure."""
        return self.status != 0 and _DAMAGE.search(self.err) is not None


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """An object as `cat-file --batch-check` names it. `size` is in bytes."""

    id: str
    kind: str
    size: int


def scrub(text: str) -> str:
    """Make git's words fit for a log line: credentials out of URLs, one line, no control characters, at most 300."""
    return _CONTROL.sub(" ", _CREDENTIALS.sub("***@", text)).strip()[:_MESSAGE_LIMIT]


def clean(text: bytes, limit: int = 200) -> str:
    """Read a stranger's text (a name, a subject): undecodable bytes replaced, control characters out, cut."""
    read = text[: 4 * limit].decode(errors="replace")
    return (read if read.isprintable() else _CONTROL.sub(" ", read)).strip()[:limit]


def is_object_id(text: str) -> bool:
    """Say whether `text` is a full SHA-1 object id."""
    return _OBJECT_ID.match(text) is not None


def tells_of_damage(error: SourceUnreachable) -> bool:
    """Say whether an error that repeats git's words may come from what lies on this disk."""
    return _DAMAGE.search(str(error).encode()) is not None


def described(line: str) -> BlobInfo | None:
    """Read `<id> <kind> <size>`; None for `<name> missing` and the like."""
    words = line.rsplit(" ", 2)
    if len(words) != 3 or not is_object_id(words[0]) or not words[2].isdecimal():
        return None
    return BlobInfo(words[0], words[1], int(words[2]))
