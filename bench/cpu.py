"""CPU time by process, of a program and all that it has started: what a request costs, and where.

Unlike requests a second it hardly depends on what else the machine does.
"""

from __future__ import annotations

import os
import re
from collections import Counter

from argus import processes

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

_NAMES = (
    (re.compile(r"VLLM::Worker"), "engine: worker"),
    (re.compile(r"VLLM::EngineCore"), "engine: core"),
    (re.compile(r"vllm\.entrypoints"), "vLLM's server"),
    (re.compile(r"ray::ServeReplica:.*OpenAiIngress"), "Ray's ingress"),
    (re.compile(r"ray::ServeReplica:.*(LLMServer|svc-)"), "replica"),
    (re.compile(r"ray::ProxyActor"), "Ray's proxy"),
    (re.compile(r"haproxy\.cfg"), "HAProxy"),
)


def used(root: int) -> Counter[str]:
    """Give the CPU seconds that `root` and its descendants have used so far, by what they are."""
    seconds: Counter[str] = Counter()
    for pid in {root} | processes.descendants(root, processes.everybody()):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        name = next((name for pattern, name in _NAMES if pattern.search(line)), "all else")
        seconds[name] += (int(fields[11]) + int(fields[12])) * _TICK_S
    return seconds
