"""What tests of the front share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.front_rigs import HaproxyRig, haproxy_rig
from tests.contracts.toy_replica import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    opened = Stage()
    yield opened
    opened.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HaproxyRig]:
    with haproxy_rig(tmp_path / "home") as opened:
        yield opened
