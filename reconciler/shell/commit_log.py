"""What `git log` tells of commits: how it is asked, and how its answer is read. No effects.

Strangers write names, subjects and paths: the answer is split at NULs and read by position.
"""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.core.entities import Commit, Entry
from reconciler.core.history import API_EMAIL, API_NAME, TRAILERS, PathChange, RawCommit
from reconciler.core.identity import moment
from reconciler.errors import SourceUnreachable
from reconciler.shell.git_answers import clean, is_object_id

_TRAILERS = "".join(f"key={name}," for name in TRAILERS)
_COMMIT_FIELDS = ("%H", "%P", "%ct", "%cn", "%ce", "%an", "%ae", "%s", f"%(trailers:{_TRAILERS}unfold=true)")
# `log` is one process where `rev-list | diff-tree --stdin` is two, and on 10,000 commits takes two thirds of the time.
# What a repository's own configuration could do to it is switched off.
LOG = (
    "log", "--first-parent", "--reverse", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-relative", "-O/dev/null",
    "--diff-merges=first-parent", "--ignore-submodules=none", "--no-show-signature", "--no-notes", "--no-color",
    "--format=" + "%x00".join(_COMMIT_FIELDS),
)  # fmt: skip


def parse_log(out: bytes) -> list[RawCommit]:
    r"""Read what `LOG` prints: NUL-ended fields, told apart by their number alone.

    A commit is its nine fields, then `:<mode> <mode> <id> <id> <letter>` and a path for each change, the first after a
    line feed. Git cuts names and messages at a NUL of their own, so nothing a stranger writes moves a field. Raises
    SourceUnreachable on anything else.
    """
    tokens = out.split(b"\0")
    tokens.pop()  # what follows the last NUL: nothing
    found: list[RawCommit] = []
    known: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        fields = tokens[position : position + len(_COMMIT_FIELDS)]
        position += len(_COMMIT_FIELDS)
        changes = []
        while position + 1 < len(tokens) and tokens[position].startswith((b"\n:", b":")):
            changes.append(path_change(tokens[position], tokens[position + 1]))
            position += 2
        found.append(_raw_commit(fields, tuple(changes), known))
    return found


def _raw_commit(fields: Sequence[bytes], changes: tuple[PathChange, ...], known: dict[str, str]) -> RawCommit:
    if len(fields) != len(_COMMIT_FIELDS):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    sha, parents, seconds, committer, committer_email, author, author_email, subject, trailers = fields
    by_api = committer.decode(errors="replace") == API_NAME and committer_email.decode(errors="replace") == API_EMAIL
    name, email = clean(author), clean(author_email)
    commit = Commit(
        sha=sha.decode(errors="replace"),
        author=known.setdefault(name, name),  # ten thousand commits of a few hundred people
        committed_at=moment(seconds.decode(errors="replace")),
        source="api" if by_api else "git",
        subject=clean(subject),
        email=known.setdefault(email, email),
    )
    parent = parents[:40].decode(errors="replace") or None
    return RawCommit(commit, parent, changes, trailers=_trailers(trailers) if trailers else {})


def _trailers(lines: bytes) -> dict[str, str]:
    """Read `<name>: <value>` lines, the names in any case, as people write them. Of two values the later one counts."""
    names = {name.lower(): name for name in TRAILERS}
    said = (line.partition(b":") for line in lines.split(b"\n") if line)
    return {names[key]: clean(value) for name, _, value in said if (key := clean(name).lower()) in names}


def path_change(description: bytes, path: bytes) -> PathChange:
    """Read `:<6 digits> <6 digits> <40 digits> <40 digits> <letter>`."""
    text = description.decode(errors="replace").lstrip("\n")
    if len(text) != 98 or not is_object_id(text[56:96]):
        raise SourceUnreachable("git log gave an answer that cannot be read")
    return PathChange(
        path=path.decode(errors="surrogateescape"),
        before=_entry(text[1:7], text[15:55]),
        after=_entry(text[8:14], text[56:96]),
    )


def _entry(mode: str, blob: str) -> Entry | None:
    return None if mode == "000000" else Entry(mode=mode, blob=blob)
