"""Small HTTP servers in the router's process: on a unix socket for HAProxy, on a port for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn

STOP_LIMIT_S = 2
BACKLOG = 1024
_OWNER_ONLY = 0o177


def unix_socket(folder: Path, name: str) -> socket.socket:
    """Give a listener at `folder`/`name` that only this user may open. Takes the place of what was there.

    Raises OSError.
    """
    (folder / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(_OWNER_ONLY)
    try:
        # A unix socket's path has 107 bytes, a state folder's may have more.
        listener.bind(f"/proc/self/fd/{at}/{name}")
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
        os.close(at)
    return listener


def tcp_socket(host: str, port: int) -> socket.socket:
    """Give a listener at host:port. Raises OSError where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def serve(app: Any, listener: socket.socket, stop: asyncio.Event) -> None:
    """Run an ASGI app on `listener` until `stop` is set; requests then have two seconds to end."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=STOP_LIMIT_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        stopping.cancel()
    await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take no signals: they are the router's."""
        yield
