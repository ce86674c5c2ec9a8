"""A commit's verdicts as the text of its git note, and back.

For people first: one line a file, the worst verdict on top, as `git log --notes=argus` shows it. Then, after an empty
line, one JSON object a file, ASCII, each on a line of its own:

    {"argus": 1, "path": "users/a/x.yaml", "model_key": "svc-...", "verdict": "APPLIED", "message": null, "line": null,
     "column": null, "superseded_by": null, "stages": {"committed": "2026-01-06T12:30:00Z", "seen": ..., ...}}

`argus` is the version of this form; members may be added within a version. Whoever may push may write anything into a
note: what is no such line is passed over when a note is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from reconciler.core.cases import LONGEST_MESSAGE, WORST_FIRST, Case, CaseId, Stages, Verdict
from reconciler.core.entities import ChangeKind, FileChange
from reconciler.core.times import iso

VERSION = 1

_LONGEST_LINE = 200
_SHA = re.compile(r"[0-9a-f]{40}\Z")
_STAGES = tuple(field.name for field in fields(Stages))


def text(cases: Sequence[Case]) -> str:
    """Give the note of a commit from its closed cases."""
    ordered = sorted((case for case in cases if case.verdict is not None), key=_badness)
    return "\n".join([*map(_for_people, ordered), "", *map(_for_machines, ordered), ""])


def restored(notes: Mapping[str, str], history: Sequence[FileChange]) -> tuple[Case, ...]:
    """Give the closed cases that `notes` (full SHA -> text) tell of, in the order of the branch.

    `history` is every change of a spec file on the branch. A note counts only for such a change, and says no more of it
    than what became of it: who, what and when come from git itself.
    """
    told: dict[CaseId, Mapping[str, Any]] = {}
    for sha, note in notes.items():
        for line in note.splitlines():
            if (found := _read(line)) is not None:
                told.setdefault((sha, found["path"]), found)
    cases = (
        _case(change, told[(change.commit.sha, change.identity.path)])
        for change in history
        if (change.commit.sha, change.identity.path) in told
    )
    return tuple(case for case in cases if case is not None)


def _badness(case: Case) -> tuple[int, str]:
    return (WORST_FIRST.index(case.verdict) if case.verdict else -1, case.path)


def _for_people(case: Case) -> str:
    said = ""
    match case.verdict:
        case Verdict.APPLIED:
            said = f"serves since {_iso(case.stages.ready)}"
        case Verdict.REMOVED:
            said = f"gone since {_iso(case.stages.ready)}"
        case Verdict.SUPERSEDED:
            said = f"by {case.superseded_by[:12]}" if case.superseded_by else ""
        case Verdict.REJECTED if case.line is not None:
            said = f"line {case.line}: {case.message or ''}"
        case _:
            said = case.message or ""
    line = " ".join("".join(char if char.isprintable() else " " for char in said).split())
    return f"{case.verdict} {case.path} -> {case.model_key}{': ' if line else ''}{line}"[:_LONGEST_LINE]


def _for_machines(case: Case) -> str:
    known = {
        "argus": VERSION,
        "path": case.path,
        "model_key": case.model_key,
        "verdict": case.verdict,
        "message": case.message,
        "line": case.line,
        "column": case.column,
        "superseded_by": case.superseded_by,
        "stages": {name: _iso(getattr(case.stages, name)) for name in _STAGES},
    }
    return json.dumps(known, ensure_ascii=True)


def _read(line: str) -> Mapping[str, Any] | None:
    """Read one line for machines; None for anything else."""
    if not line.startswith('{"argus"'):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and found.get("argus") == VERSION and isinstance(found.get("path"), str)
    return found if is_ours else None


def _case(change: FileChange, told: Mapping[str, Any]) -> Case | None:
    """Judge a change as a note says; None where the note's words are no verdict.

    Whose file it is says history: a model that was carried over a rewritten one had another key (`core.rewrites`).
    """
    identity, by, stages = change.identity, told.get("superseded_by"), told.get("stages")
    verdict, message = told.get("verdict"), told.get("message")
    if not isinstance(verdict, str) or verdict not in set(Verdict):
        return None
    times = {name: _time(stages.get(name)) for name in _STAGES} if isinstance(stages, dict) else {}
    times.pop("committed", None)
    return Case(
        commit=change.commit,
        path=identity.path,
        model_key=identity.model_key,
        user_id=identity.user_id,
        removes=change.kind is ChangeKind.DELETED,
        stages=Stages(change.commit.committed_at, **times),
        verdict=Verdict(verdict),
        message=message[:LONGEST_MESSAGE] if isinstance(message, str) else None,
        line=_count(told.get("line")),
        column=_count(told.get("column")),
        superseded_by=by if isinstance(by, str) and _SHA.match(by) else None,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _iso(moment: datetime | None) -> str | None:
    return iso(moment) if moment is not None else None
