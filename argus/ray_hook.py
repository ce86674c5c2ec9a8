"""What `ray start` is made to leave out and has no flag for.

Ray itself loads this (RAY_START_HOOK), so it imports nothing.
"""

from __future__ import annotations

from typing import Any


def without_client_server(ray_params: Any, head: bool) -> None:
    """Take out Ray's client server: nobody here uses that port, and it runs whatever code it is sent."""
    ray_params.ray_client_server_port = None
