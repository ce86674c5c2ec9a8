"""Why an engine did not start, in its own words: picked from what it printed, and from what Ray says of it.

vLLM starts its engine in processes of their own. What is raised in the replica is "Engine core initialization failed.
See root cause above": the cause stands in the output. Runs in replicas, so this module is sent to the cluster by value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NOT_STARTED = "the engine did not start: "
"""How the explanation begins, in the exception that a replica raises and in what Serve makes of it."""

LONGEST = 1500
"""Characters of an explanation."""

_LONGEST_CAUSE = 1200
_LONGEST_RAISED = 8000  # vLLM lists 300 architectures where it does not know one; searching is quadratic at its worst
_MOST_LINES = 8
_LAST_LINES = 3
_LONGEST_LINE = 200  # vLLM prints its whole configuration in one

# `(EngineCore pid=17) `, which nests, and Ray's `(RayWorkerProc pid=17, ip=10.0.0.2) `.
_PROCESS = re.compile(r"(?:\([^()]{1,80} pid=\d+[^()]{0,80}\) ?)+")
# `ERROR 11-24 06:16:57 [core.py:1374] `, before each line of a record.
_RECORD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]{1,80}\] ?")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:[A-Za-z_]\w*(?:Error|Exception)|Exception)(?:\(\w+\))?(?:: |$)")
# What tells of an end without an exception: the C++ runtime's, glibc's, CUDA's and NCCL's last words.
_LAST_WORDS = re.compile(
    r"terminate called|what\(\):|bad_alloc|Segmentation fault|Bus error|out of memory|^Killed\b", re.I
)
_DIED = re.compile(r"died unexpectedly \(exit code: -(\d+)\)|Failed core proc\(s\): \{[^{}]{0,200}: -(\d+)")

# They say that something else went wrong.
_POINTS_ELSEWHERE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|root cause|"
    r"^RuntimeError: (?:cancelled|Executor failed\.?)$|CancelledError|BrokenPipeError|ConnectionResetError"
)
# Quotes the worker's own words, which may have been printed on another node.
_QUOTES = re.compile(
    r"RuntimeError: Worker failed with error '(?P<words>.*?)', please check the stack trace", re.DOTALL
)
_SEPARATES = re.compile(r"Traceback \(|The above exception|During handling of|Process \w+|\s*$")
_OF_PYDANTIC = re.compile(
    r"\A(?:Failed to create vLLM engine config: )?1 validation error for \w+\n\s*(?:Value error, )?|"
    r"\s*\[type=\w+, input_value=.*?, input_type=\w+\]|\n\s*For further information visit \S+",
    re.DOTALL,
)

_SIGNALS = {
    4: "crashed (SIGILL): this processor lacks an instruction that it was built for",
    6: "ended itself (SIGABRT)",
    7: "crashed (SIGBUS): most likely shared memory (/dev/shm) is too small",
    9: "was killed (SIGKILL)",
    11: "crashed (SIGSEGV)",
    15: "was told to end (SIGTERM)",
}
_BY_KERNEL = ": out of memory, the kernel has killed processes on this node meanwhile"
_LIKELY_BY_KERNEL = ": most likely out of memory, which the kernel or the container's limit answers so"


def explain(raised: str, printed: Sequence[str], *, kernel_killed: bool = False) -> str:
    """Say why an engine did not start, the most useful first, in at most `LONGEST` characters.

    Args:
        raised: What was raised in the replica.
        printed: The lines of the engine's processes.
        kernel_killed: Whether the kernel has killed processes of this node for want of memory since the start.
    """
    raised = raised[:_LONGEST_RAISED]
    lines = [_parted(line) for line in printed]
    signal = _signal(raised, printed, kernel_killed=kernel_killed)
    if signal:
        cause = signal
    elif raised and not _POINTS_ELSEWHERE.search(raised):
        return _cut(NOT_STARTED + _tidy(raised), LONGEST)
    else:
        cause = _cause(lines) or ""
    if cause and not signal:
        return NOT_STARTED + _cut(_tidy(cause), _LONGEST_CAUSE)
    return _with_last_lines(cause or _tidy(raised) or "it gave no reason", lines)


def explain_end(why: str, printed: Sequence[str]) -> str:
    """Say why an engine was ended before it had started, with what it said last, in at most `LONGEST` characters."""
    return _with_last_lines(why, [_parted(line) for line in printed])


def told(message: str) -> str:
    """Give the explanation from what Serve says of a deployment, where it holds one; else the whole message."""
    _, found, words = message.rpartition(NOT_STARTED)
    return found + words.strip() if found else message


def _with_last_lines(cause: str, lines: Sequence[tuple[str, str]]) -> str:
    said = [_cut(text, _LONGEST_LINE) for origin, text in lines if _is_news(origin, text)][-_LAST_LINES:]
    parts = [cause, *(["Its last lines:", *said] if said else [])]
    return _cut(NOT_STARTED + "\n".join(parts), LONGEST)


def _parted(line: str) -> tuple[str, str]:
    """Part a line into who says it (process, and record of the log) and what is said."""
    end = 0
    for form in (_PROCESS, _RECORD):
        if match := form.match(line, end):
            end = match.end()
    return line[:end].rstrip(), line[end:]


def _cause(lines: Sequence[tuple[str, str]]) -> str | None:
    """Give the last exception that does not point elsewhere, with all that belongs to its message."""
    quoted = last_words = None
    for index in range(len(lines) - 1, -1, -1):
        text = lines[index][1]
        if _EXCEPTION.match(text):
            whole = _message(lines, index)
            if quote := _QUOTES.match(whole):
                quoted = quoted or quote["words"]
            elif not _POINTS_ELSEWHERE.search(whole):
                return whole
        elif last_words is None and _LAST_WORDS.search(text):
            last_words = text.strip()
    return quoted or last_words


def _message(lines: Sequence[tuple[str, str]], first: int) -> str:
    origin = lines[first][0]
    found = [lines[first][1]]
    for other, text in lines[first + 1 : first + _MOST_LINES]:
        if other != origin or _SEPARATES.match(text) or _EXCEPTION.match(text):
            break
        found.append(text)
    return "\n".join(found)


def _signal(raised: str, printed: Sequence[str], *, kernel_killed: bool) -> str | None:
    for line in (raised, *reversed(printed)):
        if match := _DIED.search(line):
            number = int(match[1] or match[2])
            who = "a worker of the engine" if match[1] else "the engine's process"
            what = _SIGNALS.get(number, f"ended by signal {number}")
            if number == 9:
                what += _BY_KERNEL if kernel_killed else _LIKELY_BY_KERNEL
            return f"{who} {what}"
    return None


def _is_news(origin: str, text: str) -> bool:
    """Say whether a line tells how far the engine had come: a record of its log that tells of no end."""
    return bool(_RECORD.search(f"{origin} ")) and "ERROR " not in origin and not text.startswith("[shutdown]")


def _tidy(words: str) -> str:
    return _OF_PYDANTIC.sub("", words).strip()


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
