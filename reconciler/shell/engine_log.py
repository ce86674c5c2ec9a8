"""What an engine prints, on the node that it runs on.

Ray gives each worker process files for its standard output and error, and the engine's own processes inherit them. So
nothing stands between an engine and its log: a replica says which files are its own, and from where on
(`ReplicaOutput`), and an actor on the same node reads them when the reconciler asks (`LogReader`), also after the
replica has died.

Both run on nodes: this module is sent to the cluster by value.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray import serve
from ray.experimental import internal_kv

from reconciler.core.log_lines import split

NAMESPACE = b"argus"
PREFIX = b"log/"
"""Where replicas announce themselves in Ray's key-value store: `log/<model key>/<replica>`."""

KV_LIMIT_S = 5.0

MOST_READ = 256 * 1024
"""Bytes of a file that are read at a time. What a file grew beyond that is skipped, and its lines are counted."""

MOST_COUNTED = 64 * 1024 * 1024
"""Bytes of what is skipped in which lines are looked for."""

_TAIL = 256 * 1024
_OURS = "argus-engine-"
_LONGEST_FILE = 64 * 1024 * 1024
_OUTPUTS = (1, 2)

Read: TypeAlias = tuple[int, int, bytes]
"""Lines that were skipped, where the reading began, and what was read."""


class ReplicaOutput:
    """The output of the process that makes it, and of all that it starts, from now on."""

    def __init__(self) -> None:
        """Find the files behind standard output and error; give both a file where they have none."""
        self._files = [_as_file(descriptor) for descriptor in _OUTPUTS]
        self._from = [_size(path) for path in self._files]
        self._kills = _out_of_memory_kills()

    def announce(self, model_key: str) -> None:
        """Say in Ray's store where this replica's output is. Raises RayError, OSError and what Ray's store raises."""
        replica = serve.get_replica_context().replica_id.unique_id
        facts = {
            "node": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "files": self._files,
            "from": self._from,
        }
        client = internal_kv.internal_kv_get_gcs_client()
        key = PREFIX + f"{model_key}/{replica}".encode()
        client.internal_kv_put(key, json.dumps(facts).encode(), True, namespace=NAMESPACE, timeout=KV_LIMIT_S)

    def lines(self) -> list[str]:
        """Give what was printed since the beginning, its end only where it is long."""
        found: list[str] = []
        for path, begin in zip(self._files, self._from, strict=True):
            try:
                _, _, data = _read(path, begin, _TAIL)
            except OSError:
                continue
            found += split(data, is_all=True)[0]
        return found

    def printed(self) -> int:
        """Say how many bytes the files hold. Another number than before means that something was printed."""
        return sum(_size(path) for path in self._files)

    def kernel_killed(self) -> bool:
        """Say whether the kernel ended any process of this node for want of memory since the beginning."""
        return _out_of_memory_kills() > self._kills


class LogReader:
    """The actor on each node that has replicas. It remembers nothing: who asks says from where on."""

    def read(self, asked: Sequence[tuple[int, int, Sequence[tuple[str, int]]]]) -> list[tuple[bool, list[Read | None]]]:
        """Give for each process (pid, start time, files with offsets) whether it lives, and what its files hold.

        A file that is not there (any more) is None.
        """
        answers = []
        for pid, started, files in asked:
            alive = _started(pid) == started  # before the files: what a dead process wrote is all there is
            answers.append((alive, [_read_if_there(path, offset) for path, offset in files]))
        return answers

    def remove(self, files: Sequence[str]) -> None:
        """Remove those files of a dead replica that are ours and not Ray's."""
        for path in map(Path, files):
            if path.name.startswith(_OURS):
                path.unlink(missing_ok=True)


def _as_file(descriptor: int) -> str:
    """Give the path of the file that a descriptor writes to.

    Ray may be told to keep no file (RAY_LOG_TO_STDERR) or one that rotates behind a pipe. Then the descriptor gets a
    file of ours, and a thread passes on what is written there: an engine never waits for whoever reads it.
    """
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())
        return _file_of_ours(descriptor)
    except OSError:  # no descriptor, or no room on the disk: an engine starts without a log too
        return os.devnull


def _file_of_ours(descriptor: int) -> str:
    passed_on = os.dup(descriptor)
    ours, path = tempfile.mkstemp(prefix=_OURS, suffix=".log")
    os.set_inheritable(passed_on, False)
    os.close(ours)
    appending = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.dup2(appending, descriptor)
    os.close(appending)
    threading.Thread(target=_pass_on, args=(path, passed_on), name="engine-log", daemon=True).start()
    return path


def _pass_on(path: str, to: int) -> None:
    """Copy what is appended to a file to where it would have gone, for as long as the process lives."""
    pause = threading.Event()
    with Path(path).open("rb") as file:
        while True:
            data = file.read(64 * 1024)
            if not data:
                if file.tell() > _LONGEST_FILE:
                    os.truncate(path, 0)  # who appends goes on at the new end
                    file.seek(0)
                pause.wait(0.2)
                continue
            try:
                while data:
                    data = data[os.write(to, data) :]
            except OSError:
                return  # nobody is there to read it; the file goes on


def _read_if_there(path: str, offset: int) -> Read | None:
    # Ray moves the files of dead workers aside when it has many.
    for place in (path, str(Path(path).parent / "old" / Path(path).name)):
        try:
            return _read(place, offset, MOST_READ)
        except OSError:
            continue
    return None


def _read(path: str, offset: int, most: int) -> Read:
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < offset:
            offset = 0  # the file was begun anew
        begin = max(offset, size - most)
        skipped = _count_lines(file, max(offset, begin - MOST_COUNTED), begin)
        file.seek(begin)
        data = file.read(most)
        if begin > offset:  # most likely in the middle of a line, which is skipped too
            rest = data.find(b"\n") + 1
            return skipped + 1, begin + rest, data[rest:]
        return skipped, begin, data


def _count_lines(file: Any, begin: int, end: int) -> int:
    file.seek(begin)
    counted = 0
    while begin < end:
        block = file.read(min(1024 * 1024, end - begin))
        if not block:
            break
        counted += block.count(b"\n")
        begin += len(block)
    return counted


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _started(pid: int) -> int:
    """Give when a process started, in the kernel's ticks; 0 where there is none. Ids are used again, both are not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def _out_of_memory_kills() -> int:
    try:
        lines: Iterable[str] = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
