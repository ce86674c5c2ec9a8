"""Which databases a test of the ledger runs on. Without a mark: on each of them."""

from __future__ import annotations

import pytest

ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
