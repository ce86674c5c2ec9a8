"""Git notes in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.errors import SourceUnreachable


class MemoryNotes:
    """`ports.Notes` in memory. `down` makes it refuse; `texts` may be written by strangers; `times` counts writes."""

    def __init__(self) -> None:
        """Begin without a note."""
        self.texts: dict[str, str] = {}
        self.times = 0
        self.down = False

    def read(self, commits: Sequence[str]) -> Mapping[str, str]:
        """Keep `ports.Notes.read`."""
        self._reach()
        return {sha: self.texts[sha] for sha in commits if sha in self.texts}

    def publish(self, notes: Mapping[str, str]) -> None:
        """Keep `ports.Notes.publish`."""
        self._reach()
        self.times += not notes.items() <= self.texts.items()
        self.texts |= notes

    def _reach(self) -> None:
        if self.down:
            raise SourceUnreachable("notes are refused")
