"""Real processes for tests: ports, and a Ray of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from argus import home, ray_head
from reconciler.settings import RaySettings

RAY_LIMIT_S = 90

_ray_token: list[bytes] = []
"""Ray's client reads its token once a process, so all Rays that one run of tests starts have the first one's."""


def free_port() -> int:
    """Give a port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_ray(state: Path, gpus: int) -> Iterator[str]:
    """Run the embedded Ray as `argus up` does, with `gpus` logical GPUs, and give its address.

    While it runs, this process has in its environment what a client of it needs.
    """
    home.prepare(state, state / "private")
    token = ray_head.token_file(state)
    for known in _ray_token:
        token.touch(mode=0o600)
        token.write_bytes(known)
    command = ray_head.command(state, RaySettings(num_gpus=gpus), os.environ)
    _ray_token[:] = [token.read_bytes()]
    client, before = ray_head.client_environ(state), dict(os.environ)
    log = state / "logs" / "ray.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command.argv, env=dict(command.environ), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + RAY_LIMIT_S
            while not ray_head.has_started(log, 0):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            os.environ.update(client)
            yield str(command.facts["address"])
        finally:
            os.environ.clear()
            os.environ.update(before)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            ray_head.remove_folder(state)
