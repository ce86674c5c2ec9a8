"""The front in memory: it remembers which names it was shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core.routes import Name


class MemoryFront:
    """`ports.Front` that keeps the last names by model id."""

    def __init__(self) -> None:
        self.names: Mapping[str, Name] = {}

    def show(self, names: Sequence[Name]) -> None:
        """Keep `ports.Front.show`."""
        self.names = {name.model_id: name for name in names}
