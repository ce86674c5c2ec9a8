"""In-memory stand-ins for what is outside, held by `tests/contracts` to the same promises as the real ones."""

from reconciler.testing.folders import MemoryFolders
from reconciler.testing.front import MemoryFront
from reconciler.testing.lease import MemoryLeases
from reconciler.testing.ledger import MemoryLedger
from reconciler.testing.notes import MemoryNotes
from reconciler.testing.runtime import MemoryRuntime
from reconciler.testing.source import MemorySource

__all__ = [
    "MemoryFolders",
    "MemoryFront",
    "MemoryLeases",
    "MemoryLedger",
    "MemoryNotes",
    "MemoryRuntime",
    "MemorySource",
]
