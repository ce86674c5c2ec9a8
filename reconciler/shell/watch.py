"""What says that a pass is due before its time: a nudge in the ledger, or a push to a repository on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from reconciler.ports import Ledger

_Stamp: TypeAlias = tuple[tuple[int, int], ...]


class Watch:
    """Looks at two cheap marks. A nudge crosses machines; the branch's own file shows a push that nobody announced."""

    def __init__(self, ledger: Ledger, repository: str, branch: str) -> None:
        """Watch `ledger`, and `repository` where that is a folder on this machine."""
        self._ledger = ledger
        folder = Path(repository)
        self._files = (folder / "refs" / "heads" / branch, folder / "packed-refs") if folder.is_dir() else ()
        self._last = self._look()

    def stirred(self) -> bool:
        """Say whether anything changed since the last call. Raises LedgerUnreachable."""
        now = self._look()
        stirred, self._last = now != self._last, now
        return stirred

    def _look(self) -> tuple[int, _Stamp]:
        return self._ledger.nudges(), tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)
