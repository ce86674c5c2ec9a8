"""How long it takes from `argus up` to the first answered chat: in a new state folder, and once more in the same one.

    .venv/bin/python bench/first_chat.py

Prints one line a step with the seconds since the start. Nothing else should run on the machine.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 600


def free_port() -> int:
    """Give a port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_once(home: Path) -> list[tuple[str, float]]:
    """Start the platform, wait until it says that it is ready, and stop it. Gives what it said and when, in seconds."""
    flags = ["--home", str(home), "--api-port", str(free_port()), "--openai-port", str(free_port())]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "argus", "up", *flags], stdout=subprocess.PIPE, text=True)
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            at = time.monotonic() - began
            assert at < LIMIT_S, "it takes too long"
            if line.startswith("  ok") or "is ready" in line:
                said.append((line.strip().removeprefix("ok "), at))
            if "is ready" in line:
                break
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    return said


def main() -> None:
    """Measure both starts."""
    with tempfile.TemporaryDirectory() as folder:
        for title in ("new state folder", "second start, same folder"):
            print(f"{title}:")
            for step, at in run_once(Path(folder, "home")):
                print(f"  {at:6.1f} s  {step}")


if __name__ == "__main__":
    main()
