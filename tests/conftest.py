"""What all tests share: the order in which folders run, fast ones first, so that a slip is seen in seconds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

# Read by Ray when it is imported, which some tests do long before others start a Ray to connect to (`tests.processes`).
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

# Werkzeug's server gives its log to whichever stderr it finds first: the one of a test that has long ended.
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)

ORDER = ("core", "contracts", "front", "loop", "webapi", "argus", "e2e")
TESTS = Path(__file__).parent


def _place(item: pytest.Item) -> tuple[bool, float]:
    """Say where a test runs: by folder in `ORDER`, a folder not named there before e2e; engine tests last.

    Of those two files run at a time (Makefile), and the longest file begins first.
    """
    parts = item.path.relative_to(TESTS).parts if item.path.is_relative_to(TESTS) else ()
    folder = parts[0] if len(parts) > 1 else ""
    place = ORDER.index(folder) if folder in ORDER else len(ORDER) - 1.5
    engine = item.get_closest_marker("engine") is not None
    return (engine, -1 if engine and folder == "e2e" else place)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the collected tests; the sort is stable, so a file's own order stays."""
    items.sort(key=_place)
