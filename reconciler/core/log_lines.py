"""What a process wrote, as lines that are safe to keep and to show on a terminal.

Runs in replicas too, so this module is sent to the cluster by value and imports nothing of Argus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

LONGEST_LINE = 2000
"""Characters of a line that are kept."""

_LONGEST_REST = 4 * LONGEST_LINE
"""Bytes that may wait for the end of their line. UTF-8 has at most four a character."""

# Colours, cursor movements, window titles.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
# What is left of C0 and C1, line and paragraph separators, and what makes text run the other way.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Words of Ray to its own log monitor, in the same files.
_OF_RAY = (":job_id:", ":actor_name:", ":task_name:")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a model's log. `number` counts a model's lines from 1; `time` is when the platform read it."""

    number: int
    time: datetime
    replica: str
    text: str


def split(data: bytes, *, is_all: bool) -> tuple[list[str], int]:
    """Give the lines in `data` that have ended, and how many bytes they took.

    A progress bar writes itself over and over with carriage returns: of each run only what stood there last is given.
    Blank lines are left out.

    Args:
        data: What was written, from the beginning of a line on.
        is_all: Whether nothing will follow, so that a last line without an end is one too.
    """
    taken = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if is_all or len(data) - taken > _LONGEST_REST:
        taken = len(data)
    found = (clean(_last_shown(part)) for part in data[:taken].split(b"\n"))
    return [line for line in found if line and not line.startswith(_OF_RAY)], taken


def clean(raw: bytes) -> str:
    """Give one line as text: valid, without what a terminal would obey, cut to `LONGEST_LINE`."""
    text = raw[: 2 * _LONGEST_REST].decode("utf-8", "replace")
    text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text).expandtabs(4)).rstrip()
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}… (cut)"


def _last_shown(part: bytes) -> bytes:
    return next((shown for shown in reversed(part.split(b"\r")) if shown.strip()), b"")
