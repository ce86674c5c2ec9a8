"""Files' contents from git's object database, each on its own: one that is damaged keeps no other from being read.

Git ends a whole `cat-file --batch` at the first object whose data cannot be unpacked, and gives out data that is not
what its name says. So an answer ends at the object that is to blame, which is then asked for alone, and the next answer
begins behind it; and what git gives counts only where its SHA-1 is the name that was asked for.

Damage is told from a git that hangs or is gone by git's own words about one object: everything else is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from reconciler.core.entities import Damaged
from reconciler.errors import SourceUnreachable
from reconciler.shell.git_answers import BlobInfo, Outcome, described, is_object_id, scrub, tells_of_damage
from reconciler.shell.objects import object_id

MOST_DAMAGED = 50
"""How many damaged objects one question may meet, each of which costs two processes of some milliseconds.

Where there are more it is no file that is damaged, but the repository.
"""

MISSING = "it is missing"
DAMAGED = "it is damaged"


class Asked(Protocol):
    """The repository, as `git.Git` asks it. Every method raises SourceUnreachable."""

    def describe(self, names: Sequence[str]) -> list[BlobInfo | None]: ...  # noqa: D102
    def contents(self, ids: Sequence[str]) -> list[bytes]: ...  # noqa: D102
    def attempt(self, *arguments: str, stdin: bytes = b"") -> Outcome: ...  # noqa: D102
    def beginning(self, blob: str, size: int) -> Outcome: ...  # noqa: D102


class Blobs:
    """Reads blobs of one repository; safe for threads.

    What was damaged is asked for alone from then on, so that it ends no answer to others.
    """

    def __init__(self, git: Asked) -> None:
        """Ask `git`."""
        self._git = git
        self._suspects: frozenset[str] = frozenset()

    def read(self, ids: Iterable[str], max_bytes: int) -> dict[str, bytes | Damaged]:
        """Read blobs by id, those larger than `max_bytes` cut to one byte more.

        Sizes are asked for first, so that a blob of gigabytes is read by nobody: it is streamed up to the cut.

        Raises SourceUnreachable, also where more than `MOST_DAMAGED` are damaged.
        """
        wanted = list(dict.fromkeys(ids))
        for blob in wanted:
            if not is_object_id(blob):
                raise SourceUnreachable(f"{scrub(blob)!r} is no object id")
        suspects = self._suspects
        alone = [blob for blob in wanted if blob in suspects]
        small: list[str] = []
        found: dict[str, bytes | Damaged] = {}
        fresh = [blob for blob in wanted if blob not in suspects]
        for blob, seen in zip(fresh, self._git.describe(fresh) if fresh else (), strict=True):
            if seen is None:
                alone.append(blob)
            elif seen.kind != "blob":
                found[blob] = Damaged(blob, f"it is a {seen.kind} and no file")
            elif seen.size <= max_bytes:
                small.append(blob)
            else:
                found[blob] = self._alone(blob, max_bytes)
        _refuse_if_too_many(alone)
        found |= {blob: self._alone(blob, max_bytes) for blob in alone}
        found |= self._whole(small, max_bytes)
        damaged = frozenset(blob for blob, content in found.items() if isinstance(content, Damaged))
        self._suspects = (self._suspects - frozenset(wanted)) | damaged
        return found

    def _whole(self, ids: Sequence[str], max_bytes: int) -> dict[str, bytes | Damaged]:
        """Read blobs that are not too large, and of which nothing bad is known."""
        try:
            contents = self._git.contents(ids)
        except SourceUnreachable as error:
            if not tells_of_damage(error):
                raise
            return self._carefully(ids, max_bytes)
        return {blob: _proven(blob, content) for blob, content in zip(ids, contents, strict=True)}

    def _carefully(self, ids: Sequence[str], max_bytes: int) -> dict[str, bytes | Damaged]:
        found: dict[str, bytes | Damaged] = {}
        to_blame: list[str] = []
        rest = list(ids)
        while rest:
            outcome = self._git.attempt("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in rest).encode())
            whole = _answered(outcome.out, rest)
            found |= {blob: _proven(blob, content) for blob, content in zip(rest, whole, strict=False)}
            for blob in rest[len(whole) : len(whole) + 1]:
                to_blame.append(blob)
                _refuse_if_too_many(to_blame)
                found[blob] = self._alone(blob, max_bytes)
            rest = rest[len(whole) + 1 :]
        return found

    def _alone(self, blob: str, max_bytes: int) -> bytes | Damaged:
        outcome = self._git.beginning(blob, max_bytes + 1)
        if outcome.status == 0:
            return outcome.out if len(outcome.out) > max_bytes else _proven(blob, outcome.out)
        if not outcome.tells_of_damage:
            raise SourceUnreachable(f"git cat-file failed: {outcome.complaint}")
        return Damaged(blob, MISSING if b": bad file" in outcome.err else DAMAGED)


def _proven(blob: str, content: bytes) -> bytes | Damaged:
    return content if object_id("blob", content) == blob else Damaged(blob, DAMAGED)


def _answered(out: bytes, ids: Sequence[str]) -> list[bytes]:
    """Give the contents that a `cat-file --batch` answered in full, up to the first that it did not."""
    found: list[bytes] = []
    position = 0
    for _ in ids:
        end = out.find(b"\n", position)
        seen = described(out[position:end].decode(errors="replace")) if end >= 0 else None
        if seen is None or len(out) < end + 1 + seen.size + 1:
            break
        found.append(out[end + 1 : end + 1 + seen.size])
        position = end + 1 + seen.size + 1
    return found


def _refuse_if_too_many(damaged: Sequence[str]) -> None:
    if len(damaged) > MOST_DAMAGED:
        raise SourceUnreachable(f"more than {MOST_DAMAGED} files of the spec repository are missing or corrupted")
