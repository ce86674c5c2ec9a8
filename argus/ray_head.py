"""The embedded Ray: one head node on the loopback interface, with logical resources and token authentication.

What runs code for whoever asks must be hard to reach (CVE-2023-48022): every port is bound to 127.0.0.1, there is no
dashboard and no client server, and each connection must bring the token in `<home>/ray-token`.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from argus import home, processes
from argus.errors import UpFailed
from argus.supervisor import Command
from reconciler.settings import RaySettings

NAME = "ray"
SCRATCH = "t"
HOST = "127.0.0.1"
STARTED = b"Ray runtime started."
"""What `ray start` prints when the node is registered (Ray is pinned)."""

LONGEST_SOCKET_PATH = 107
_LONGEST_BELOW = len("/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")


def folder(state: Path) -> Path:
    """Say where Ray keeps its sockets and session: a short path of its own, for a unix socket's path has 107 bytes."""
    base = os.environ.get("TMPDIR", "/tmp")  # noqa: S108  made with mode 0700 and checked in `make_folder`
    name = f"argus-{home.instance(state)}"
    if len(os.fsencode(base)) + 1 + len(name) + _LONGEST_BELOW > LONGEST_SOCKET_PATH:
        base = "/tmp"  # noqa: S108
    return Path(base, name)


def make_folder(path: Path) -> None:
    """Make Ray's folder, or take the one that is there. Raises UpFailed where it is not this user's own."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        seen = path.lstat()
    except OSError as error:
        raise UpFailed(f"cannot make Ray's folder {path}: {error.strerror}") from None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        raise UpFailed(f"{path} is where Ray would keep its sockets, but it belongs to somebody else; remove it")
    # Ray itself opens the folder that it is given to everybody (0777): that one lies below this one.
    path.chmod(0o700)


def token_file(state: Path) -> Path:
    """Say where the token lies that every connection to this Ray must bring."""
    return state / "ray-token"


def client_environ(state: Path) -> dict[str, str]:
    """Give what a process needs in its environment to connect to this Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(state)),
        # By this Ray takes 127.0.0.1 for what it says; else it puts the machine's outward address in its place, and
        # binds and connects there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def environ(state: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of Ray, and with it of every engine: no secrets of the platform's, and no way to a hub."""
    return {
        **{key: value for key, value in base.items() if not key.startswith(("ARGUS_", "RAY_"))},
        **client_environ(state),
        # Engines leave sockets and files behind in it when they are killed: they go when Ray's folder goes.
        "TMPDIR": str(folder(state) / SCRATCH),
        "RAY_START_HOOK": "argus.ray_hook.without_client_server",
        # Seconds. By default a SIGTERM waits up to 30 for running work to end, and engines never end by themselves.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # Ray's own choice, 15, costs an engine an eighth of its requests a second on a busy machine. At 0 five loading
        # engines on two cores kept the API from its connections for seconds.
        "RAY_worker_niceness": "5",
        # Read by Serve's controller. A replica that has failed its checks does not end its streams either: it would be
        # waited for as long as one that goes in order, with the GPUs that its successor needs.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def argv(settings: RaySettings, port: int, at: Path) -> tuple[str, ...]:
    """Give the command that runs a head whose GCS listens on `port`, in the foreground."""
    return (
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        f"--node-ip-address={HOST}",
        f"--port={port}",
        f"--num-cpus={settings.num_cpus}",
        f"--num-gpus={settings.num_gpus}",
        f"--object-store-memory={settings.object_store_mb * 1024 * 1024}",
        f"--temp-dir={at / 'r'}",
        "--include-dashboard=false",
        # 0 everywhere: the kernel picks. Ray's fixed ranges collide with the next Ray on the same machine.
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        "--disable-usage-stats",
        "--include-log-monitor=false",
        "--no-monitor",  # the autoscaler: one node, nothing to scale
        "--log-style=record",
        "--log-color=false",
    )


def command(state: Path, settings: RaySettings, base: Mapping[str, str]) -> Command:
    """Prepare a start of Ray, in an empty folder and on the port of last time where that is free.

    Raises UpFailed where Ray's folder cannot be had.
    """
    at = folder(state)
    make_folder(at)
    for name in ("r", SCRATCH):
        shutil.rmtree(at / name, ignore_errors=True)
    (at / SCRATCH).mkdir(mode=0o700)
    home.keep_secret(token_file(state))
    port = free_port(_last_port(state))
    (state / "run" / "ray.port").write_text(f"{port}\n", encoding="ascii")
    facts = {"address": f"{HOST}:{port}", "folder": str(at)}
    # Two engines at full load left a reconciler that was starting 2 % of two cores: it was not up after eight minutes.
    return Command(argv(settings, port, at), environ(state, base), facts, group_niceness=5)


def remove_folder(state: Path) -> None:
    """Remove what Ray left on the disk."""
    shutil.rmtree(folder(state), ignore_errors=True)


def free_port(preferred: int | None = None) -> int:
    """Give a port of the loopback interface that nobody listens on now, `preferred` if it is one."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise UpFailed("no free port is left on 127.0.0.1")


def answers(address: str) -> bool:
    """Say whether something listens where Ray's GCS should."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except (OSError, ValueError):
        return False


def has_started(log: Path, offset: int) -> bool:
    """Say whether the head that writes to `log` since `offset` bytes says that it is up."""
    try:
        with log.open("rb") as file:
            file.seek(offset if offset <= log.stat().st_size else 0)
            return STARTED in file.read()
    except OSError:
        return False


def has_raylet(pid: int) -> bool:
    """Say whether the head that runs as process `pid` still has its raylet, without which nothing runs.

    `ray start` does not end when the raylet does so by itself, as it does when one of its agents was killed.
    """
    return any(
        seen.parent == pid and seen.name == "raylet" and not seen.zombie for seen in processes.everybody().values()
    )


def _last_port(state: Path) -> int | None:
    try:
        port = int((state / "run" / "ray.port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return port if 1024 <= port <= 65535 else None
