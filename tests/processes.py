"""Real processes for tests: ports, and a Ray of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """Give a port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def ray_head(logs: Path) -> Iterator[str]:
    """Run a Ray head with 8 logical GPUs, and give its address. Placeholder until argus.ray_head is there."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="argus-t-") as tmp, (logs / "ray.log").open("wb") as log:
        command = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            "--num-gpus=8",
            "--num-cpus=8",
            "--include-dashboard=false",
            "--object-store-memory=134217728",
            f"--temp-dir={tmp}",
            "--disable-usage-stats",
            "--min-worker-port=20000",
            "--max-worker-port=29999",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while "Ray runtime started" not in (logs / "ray.log").read_text():
                assert process.poll() is None and time.monotonic() < deadline, (logs / "ray.log").read_text()
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
