"""A load that hangs is ended with all its processes, and one that gets on is left alone, however slow it is.

Where there is a clock, it is counted in looks: each is a second later than the one before. Where there are processes,
they are real, and stand for an engine's.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.shell.load_watch import LoadEnded, LoadWatch, Pace

ROOT = Path(__file__).parents[2]
PACE = Pace(limit_s=60, look_s=0.0005)
LIMIT_S = 20.0


def watched(signs: Callable[[], int], end: Callable[[], None]) -> LoadWatch:
    seconds = itertools.count()
    return LoadWatch(PACE, signs, end, clock=lambda: float(next(seconds)))


def ended(signs: Callable[[], int], phase: str = "loading weights") -> str:
    """Let a load hang until it is ended, and give why it was."""
    end = threading.Event()
    with pytest.raises(LoadEnded) as why, watched(signs, end.set) as watch:  # noqa: PT012  what it raises is the point
        watch.phase = phase
        assert end.wait(LIMIT_S), "nobody ends it"
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    return str(why.value)


def test_a_load_without_a_sign_of_progress_is_ended_and_says_what_it_was_doing() -> None:
    assert ended(lambda: 7) == (
        "it hangs: loading weights for 60 s, the last 60 s without progress; serving.llm.load_timeout_s (60 s) is the "
        "limit"
    )
    assert "it hangs: warming up for " in ended(lambda: 7, "warming up")


def test_a_load_that_got_on_for_a_while_is_ended_a_limit_after_that() -> None:
    looks = itertools.count()
    assert "for 160 s, the last 60 s without progress" in ended(lambda: min(next(looks), 100))


def test_a_load_that_gets_on_is_left_alone_beyond_its_limit() -> None:
    looks, far = itertools.count(), threading.Event()

    def signs() -> int:
        seen = next(looks)
        if seen == 3 * 60:
            far.set()
        return seen // 50  # a sign of life every 50 s

    ends: list[str] = []
    with watched(signs, lambda: ends.append("ended")) as watch:
        assert far.wait(LIMIT_S)
    assert not ends
    assert watch.longest_silence_s == 50


def test_a_load_that_hangs_and_talks_about_it_is_ended_all_the_same() -> None:
    looks = itertools.count()
    assert ended(lambda: next(looks)) == (
        "it comes to no end: loading weights for 240 s; 4 times serving.llm.load_timeout_s (60 s) is the limit"
    )


def test_a_load_is_ended_again_where_it_has_started_further_processes() -> None:
    ends, third = itertools.count(1), threading.Event()
    with pytest.raises(LoadEnded), watched(lambda: 0, lambda: third.set() if next(ends) == 3 else None):
        assert third.wait(LIMIT_S)


def test_a_load_that_nobody_wants_any_more_is_ended_at_once() -> None:
    end, looks = threading.Event(), itertools.count()
    with (
        pytest.raises(LoadEnded, match="not wanted any more: loading weights for"),
        LoadWatch(PACE, itertools.count().__next__, end.set, lambda: next(looks) > 3),
    ):
        assert end.wait(LIMIT_S)


def test_an_error_of_a_loads_own_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="no room for a KV cache"), watched(itertools.count().__next__, lambda: None):
        raise ValueError("no room for a KV cache")


# Loads as vLLM does: starts processes and waits for one of them, without a limit and for nothing else.
LOADS = """
import signal, subprocess, sys
from reconciler.shell.below import end_below, processes_below, read_by
from reconciler.shell.load_watch import LoadEnded, LoadWatch, Pace
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
deaf = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
deaf.stdout.readline()
worker = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
print(deaf.pid, worker.pid, worker.stdout.readline().strip(), flush=True)
worker.send_signal(signal.SIGSTOP)
try:
    with LoadWatch(Pace(limit_s=0.2, look_s=0.02), lambda: read_by(processes_below()), end_below):
        worker.wait()
        raise RuntimeError("See root cause above")
except LoadEnded as why:
    print(why, flush=True)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )


def runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_processes_that_are_stopped_or_deaf_are_ended_and_the_load_comes_back() -> None:
    done = run(LOADS)
    assert done.returncode == 0, done.stderr
    pids, why = done.stdout.splitlines()
    assert "it hangs: loading weights for" in why
    assert not [pid for pid in pids.split() if runs(pid)]


# Comes back from nothing: it waits for what nobody can end, with no other thread running.
STUCK = """
import re
from reconciler.shell.below import end_below, processes_below, read_by
from reconciler.shell.load_watch import LoadWatch, Pace
with LoadWatch(Pace(limit_s=0.2, look_s=0.02, back_s=0.1), lambda: read_by(processes_below()), end_below):
    {}
"""


@pytest.mark.parametrize(
    "stuck",
    ["__import__('threading').Event().wait()", "re.match('(a+)+$', 'a' * 64 + 'b')"],
    ids=["it waits for nobody", "it holds Python's lock"],
)
def test_a_replica_that_does_not_come_back_ends_itself_and_says_where_it_was(stuck: str) -> None:
    done = run(STUCK.format(stuck))
    assert done.returncode == 1
    assert 'File "<string>", line' in done.stderr


READS = """
import mmap, os, sys
with open(sys.argv[1], "wb") as file:
    file.write(os.urandom(1 << 20))
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
print("written", flush=True)
input()
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as weights:
    sum(weights[place] for place in range(0, len(weights), 4096))
print("read", flush=True)
input()
"""


def test_weights_that_are_read_from_a_disk_are_progress() -> None:
    from reconciler.shell.below import processes_below, read_by

    path = ROOT / f".load-watch-{os.getpid()}"  # a folder for temporary files may be memory, which is no disk
    reader = subprocess.Popen(
        [sys.executable, "-c", READS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "written\n"
        before = read_by(processes_below())
        print(file=reader.stdin)
        assert reader.stdout.readline() == "read\n"
        assert read_by(processes_below()) >= before + (1 << 20)
    finally:
        reader.kill()
        reader.communicate()
        path.unlink(missing_ok=True)
