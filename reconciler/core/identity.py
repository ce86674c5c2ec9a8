"""Who a model is, as a function of the repository's history alone.

Keys are handed out in the order in which files came onto the branch: commits along first parents, oldest first, and
paths sorted within a commit. A key that was given once is never given again, so whoever folds the same history gets
the same keys, on any machine and after any loss of the ledger.

Where history itself was rewritten, the ledger remembers who was who (`Carried`, `core.rewrites`), and the fold goes on
from there.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler.core.entities import Identity
from reconciler.names import SpecName, split_path

KEY_HEX_DIGITS = 4

Fingerprint = Callable[[str, str, int], str]
"""(commit SHA, path, attempt) -> at least `KEY_HEX_DIGITS` lower-case hex digits, the same for the same arguments."""


def fingerprint(sha: str, path: str, attempt: int) -> str:
    """Give the hex digits that the model brought by commit `sha` at `path` asks for at its n-th attempt."""
    return hashlib.sha256(f"{sha}\n{path}\n{attempt}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Carried:
    """Who the models at `revision` are, whatever the history before it says: model keys by path.

    It names every spec file of that revision. A commit after it changes them as any commit does.
    """

    revision: str
    keys: Mapping[str, str] = field(hash=False)


def identity_of(model_key: str, path: str) -> Identity:
    """Read the identity of the model at `path` from its key. Raises ValueError where the two do not belong together."""
    name = split_path(path)
    if name is None or not model_key.startswith(f"svc-{name.user_id}-"):
        raise ValueError(f"no model at this path has the key {model_key:.120}")
    stamp = model_key.removeprefix(f"svc-{name.user_id}-")[:15]
    return Identity(
        model_key=model_key,
        model_id=f"{name.user_id}-{stamp[:8]}{stamp[9:13]}-{name.suffix}",
        user_id=name.user_id,
        suffix=name.suffix,
        path=path,
        created_at=datetime.strptime(stamp, "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
    )


class Keys:
    """The model keys that history has given out so far. Owned by one fold (`core.history.History`)."""

    def __init__(self, fingerprint: Fingerprint = fingerprint, hex_digits: int = KEY_HEX_DIGITS) -> None:
        self._fingerprint = fingerprint
        self._hex_digits = hex_digits
        self._taken: defaultdict[str, set[str]] = defaultdict(set)

    def issue(self, name: SpecName, path: str, sha: str, at: datetime) -> Identity:
        """Identify the model that commit `sha`, committed at `at` (UTC, whole seconds), brought in at `path`."""
        stamp = f"{at:%Y%m%d-%H%M%S}"
        stem = f"svc-{name.user_id}-{stamp}-"
        return Identity(
            model_key=stem + self._digits(stem, sha, path),
            model_id=f"{name.user_id}-{stamp[:8]}{stamp[9:13]}-{name.suffix}",
            user_id=name.user_id,
            suffix=name.suffix,
            path=path,
            created_at=at,
        )

    def take(self, model_key: str) -> None:
        """Never give out this key, which some model has already."""
        stem, _, digits = model_key.rpartition("-")
        self._taken[f"{stem}-"].add(digits)

    def _digits(self, stem: str, sha: str, path: str) -> str:
        """Take the first free digits that the fingerprint offers.

        One user's commits of one second share 16^4 = 65,536 keys. One commit with 300 files already meets a collision
        with probability 1 - exp(-300^2 / 2 / 65536) = 50 %, one with 65,537 files has no key left: then, and only
        then, keys grow by a digit, so that no commit can keep the fold from ending.
        """
        taken = self._taken[stem]
        width, room = self._hex_digits, 16**self._hex_digits
        while len(taken) >= room:
            width += 1
            room += 16**width
        attempt = 0
        while (digits := self._fingerprint(sha, path, attempt)[:width]) in taken:
            attempt += 1
        taken.add(digits)
        return digits


def moment(seconds: str) -> datetime:
    """Read git's committer time (seconds since the epoch, as text).

    A commit's time is whatever its author's machine wrote: what is no number counts as 0, and what no calendar of four
    digits holds is cut to its ends.
    """
    try:
        value = int(seconds)
    except ValueError:
        value = 0
    return datetime.fromtimestamp(min(max(value, 0), _LAST_SECOND), tz=UTC)


_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
