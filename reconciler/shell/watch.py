"""What says that a pass is due before its time: a nudge in the ledger, or a push to a repository on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from reconciler.ports import Ledger
from reconciler.shell.embedded_repo import PUSHED
from reconciler.shell.spec_copy import is_remote
from reconciler.shell.wake import Wake

_Stamp: TypeAlias = tuple[tuple[int, int], ...]

_FULL_SHA = 40


class Watch:
    """Looks at a few cheap marks, when somebody writes near them or the time is up.

    A nudge crosses machines. The branch's own file shows a push that nobody announced. The embedded repository's hook
    announces each (`PUSHED`), which tells something new only where a branch is no file.
    """

    def __init__(self, ledger: Ledger, repository: str, branch: str, home: Path | None = None) -> None:
        """Watch `ledger`, and `repository` where that is a folder on this machine.

        `home` is the state folder, in which nudges are rung (`wake.ring`).
        """
        self._ledger = ledger
        self._files: tuple[Path, ...] = ()
        self._pushed: Path | None = None
        folders = [] if home is None else [home / "run"]
        if not is_remote(repository):
            folder = Path(repository)
            ref = folder / "refs" / "heads" / branch
            self._files, self._pushed = (ref, folder / "packed-refs"), folder / PUSHED
            folders += [folder, ref.parent]
        self._wake = Wake(folders)
        self._last, self._last_push = self._look(), self._push()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is worth to look, at most `timeout_s` seconds."""
        self._wake.wait(timeout_s)

    def stirred(self) -> bool:
        """Say whether anything changed since the last call. Raises LedgerUnreachable."""
        now, push = self._look(), self._push()
        stirred, self._last = now != self._last, now
        if push != self._last_push:
            # Announced after the branch has moved: what its file shows has stirred already, then or just now.
            stirred |= self._files != () and push[0] != _content(self._files[0])
            self._last_push = push
        return stirred

    def close(self) -> None:
        """Let go of what is watched."""
        self._wake.close()

    def _look(self) -> tuple[int, _Stamp]:
        return self._ledger.nudges(), tuple(_stamp(file) for file in self._files)

    def _push(self) -> tuple[str, tuple[int, int]]:
        return ("", (0, 0)) if self._pushed is None else (_content(self._pushed), _stamp(self._pushed))


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)


def _content(file: Path) -> str:
    """Give the object id that a file holds; nothing where it holds none."""
    try:
        with file.open(encoding="ascii", errors="replace") as opened:
            return opened.read(_FULL_SHA)
    except OSError:
        return ""
