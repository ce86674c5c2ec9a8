"""The processes below this one: an engine's own, wherever its replica runs.

Sent to the cluster by value, like `engine`: nodes need Ray and vLLM, not Argus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def processes_below() -> list[psutil.Process]:
    """Give the processes below this one, whole generations of them."""
    below: list[psutil.Process] = psutil.Process().children(recursive=True)
    return below


def end_below() -> None:
    """Kill every process below this one, also those that are stopped or deaf to SIGTERM: they hold GPUs and memory.

    Resource trackers are spared. They end by themselves, after they have removed the shared memory of the dead.
    """
    for child in processes_below():
        with contextlib.suppress(psutil.Error):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.kill()


def read_by(processes: Iterable[psutil.Process]) -> int:
    """Say how many bytes these processes have had from disks so far, also through mapped files.

    What the kernel had in memory already does not count, and what a process read that has ended is left out.
    """
    read = 0
    for each in processes:
        with contextlib.suppress(psutil.Error):
            read += each.io_counters().read_bytes
    return read
