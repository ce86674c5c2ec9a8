"""What a process and all that it starts print is found in files on its node, whatever becomes of the process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]

# Prints before and after, itself and through a child that dies; says in a file what it found, and ends with its input.
REPLICA = """
import json, os, subprocess, sys
sys.path.insert(0, {root!r})
from reconciler.shell.engine_log import ReplicaOutput
print("from before", flush=True)
output = ReplicaOutput()
print("from the replica", flush=True)
child = "import os; os.write(1, b'from its child'); os.write(2, bytes([100, 121, 105, 110, 103, 10])); os.abort()"
subprocess.run([sys.executable, "-c", child])
with open(sys.argv[1], "w") as found:
    json.dump({{"files": output._files, "lines": output.lines()}}, found)
print(" and the last", flush=True)
sys.stdin.read()
os._exit(1)
"""


@pytest.fixture(scope="module")
def engine_log() -> Any:
    from reconciler.shell import engine_log

    return engine_log


@contextlib.contextmanager
def replica(tmp_path: Path, **outputs: Any) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-c", REPLICA.format(root=str(ROOT)), str(tmp_path / "found.json")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, **outputs) as process:
        yield process
        process.communicate(timeout=60)


def found(tmp_path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    return said


def test_a_replica_finds_its_own_words_and_those_of_its_children_from_its_beginning_on(tmp_path: Path) -> None:
    files = [tmp_path / "worker.out", tmp_path / "worker.err"]
    with files[0].open("ab") as out, files[1].open("ab") as err, replica(tmp_path, stdout=out, stderr=err):
        pass
    assert found(tmp_path)["files"] == [str(file) for file in files]
    assert found(tmp_path)["lines"][:3] == ["from the replica", "from its child", "dying"]


def test_where_ray_keeps_no_files_the_words_still_go_where_they_went(tmp_path: Path, engine_log: Any) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with replica(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines == [b"from before\n", b"from the replica\n", b"from its child and the last\n"]
        assert process.stderr.readline() == b"dying\n"
    assert found(tmp_path)["lines"][:3] == ["from the replica", "from its child", "dying"]
    files = found(tmp_path)["files"]
    reader = engine_log.LogReader()
    [(alive, [out, _err])] = reader.read([(1, 0, [(path, 0) for path in files])])
    assert (alive, out[2]) == (False, b"from the replica\nfrom its child and the last\n")
    (tmp_path / "of-ray.out").touch()
    reader.remove([*files, str(tmp_path / "of-ray.out"), str(tmp_path / "argus-engine-absent.log")])
    assert not any(Path(path).exists() for path in files)
    assert (tmp_path / "of-ray.out").exists()


def read(engine_log: Any, path: Path, offset: int) -> Any:
    [(_, [output])] = engine_log.LogReader().read([(1, 0, [(str(path), offset)])])
    return output


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(st.binary(max_size=50), max_size=10))
def test_a_file_that_grows_is_read_whole_and_once(
    pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory, engine_log: Any
) -> None:
    path = tmp_path_factory.mktemp("log") / "worker.out"
    path.touch()
    whole, offset = b"", 0
    for piece in pieces:
        with path.open("ab") as file:
            file.write(piece)
        skipped, begin, data = read(engine_log, path, offset)
        assert (skipped, begin) == (0, offset)
        whole, offset = whole + data, begin + len(data)
    assert whole == b"".join(pieces)


def test_what_grows_faster_than_it_is_read_is_skipped_line_by_line_and_counted(tmp_path: Path, engine_log: Any) -> None:
    path = tmp_path / "worker.out"
    lines = [b"line %06d\n" % number for number in range(100_000)]
    path.write_bytes(b"".join(lines))
    skipped, begin, data = read(engine_log, path, len(lines[0]) * 10)
    kept = data.splitlines(keepends=True)
    assert kept == lines[-len(kept) :]
    assert skipped == 100_000 - 10 - len(kept)
    assert begin == len(lines[0]) * (100_000 - len(kept))
    assert engine_log.MOST_READ - len(lines[0]) <= len(data) <= engine_log.MOST_READ


def test_a_file_that_ray_moved_aside_is_found_and_one_that_is_gone_is_none(tmp_path: Path, engine_log: Any) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "worker.out").write_bytes(b"last words\n")
    assert read(engine_log, tmp_path / "worker.out", 0) == (0, 0, b"last words\n")
    assert read(engine_log, tmp_path / "worker.err", 0) is None


def test_a_file_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path, engine_log: Any) -> None:
    path = tmp_path / "worker.out"
    path.write_bytes(b"new\n")
    assert read(engine_log, path, 1000) == (0, 0, b"new\n")


def test_a_process_is_known_by_its_start_and_a_dead_one_is_not_alive(engine_log: Any) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = engine_log._started(process.pid)
    reader = engine_log.LogReader()
    assert reader.read([(process.pid, started, []), (process.pid, started + 1, [])]) == [(True, []), (False, [])]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for: a zombie
    assert reader.read([(process.pid, started, [])]) == [(False, [])]
    process.wait()
    assert reader.read([(process.pid, started, [])]) == [(False, [])]
