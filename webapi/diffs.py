"""What a commit changed in a spec's file, as a unified diff. Files that are no specs by their size are left out."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.entities import Damaged, FileChange, SpecFile
from reconciler.shell.git import Git
from reconciler.shell.spec_copy import SpecCopy

LONGEST_SPEC = 65536
"""The longest file of which a diff is made, in bytes: no longer one can be a spec."""

_SUBMODULE = "160000"


def diffs(copy: SpecCopy, changes: Sequence[FileChange]) -> dict[str, str]:
    """Give each change's diff by its commit, none for files that are too long, no text, or damaged.

    Raises SourceUnreachable.
    """
    files = [change for change in changes if all(side.mode != _SUBMODULE for side in _sides(change))]
    contents = copy.blobs({side.blob for change in files for side in _sides(change)}, LONGEST_SPEC)
    found = {}
    for change in files:
        sides = [contents[side.blob] for side in _sides(change)]
        texts = [content for content in sides if not isinstance(content, Damaged) and len(content) <= LONGEST_SPEC]
        if not texts or len(texts) < len(sides):
            continue
        before, after = change.before, change.after
        if before and after:
            hunks = _between(copy.git, before.blob, after.blob)
        else:
            hunks = _only(texts[0], "+" if after else "-")
        if hunks is not None:
            path = change.identity.path
            names = f"--- {f'a/{path}' if before else '/dev/null'}\n+++ {f'b/{path}' if after else '/dev/null'}\n"
            found[change.commit.sha] = names + hunks
    return found


def _sides(change: FileChange) -> list[SpecFile]:
    return [side for side in (change.before, change.after) if side is not None]


def _between(git: Git, before: str, after: str) -> str | None:
    out = git.run("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--end-of-options", before, after)
    start = out.find(b"\n@@ ")
    if start < 0:
        return None if out else ""
    return out[start + 1 :].decode(errors="replace")


def _only(content: bytes, sign: str) -> str | None:
    return None if b"\0" in content else _whole(content.decode(errors="replace"), sign)


def _whole(text: str, sign: str) -> str:
    """Write a file that came or went whole as the one hunk that it is."""
    if not text:
        return ""
    lines = text.split("\n")
    ends = lines[-1] == ""
    lines = lines[:-1] if ends else lines
    size = str(len(lines)) if len(lines) > 1 else ""
    span = f"1,{size}" if size else "1"
    head = f"@@ -0,0 +{span} @@" if sign == "+" else f"@@ -{span} +0,0 @@"
    body = [f"{sign}{line}" for line in lines] + ([] if ends else ["\\ No newline at end of file"])
    return "\n".join([head, *body]) + "\n"
