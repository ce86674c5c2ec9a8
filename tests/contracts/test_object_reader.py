"""The git process that stays: it says what the ones that are started anew say, and steps back where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.errors import SourceUnreachable
from reconciler.shell import object_reader
from reconciler.shell.git import Git
from reconciler.shell.object_reader import ObjectReader, Process
from reconciler.shell.patience import Patience
from tests.repositories import Repository, git, runs

FILE = "users/ann/qwen.yaml"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "specs.git")
    made.commit({FILE: b"0"})
    return made


class Started:
    """Starts real processes and remembers them."""

    def __init__(self, *command: str) -> None:
        self.command = command
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> Process:
        pipe = subprocess.PIPE
        self.processes.append(subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe))
        return self.processes[-1]  # type: ignore[return-value]  # its pipes are there


def python(code: str) -> Started:
    return Started(sys.executable, "-c", code)


def over(repository: Repository) -> tuple[ObjectReader, Started]:
    start = Started("git", f"--git-dir={repository.path}", "cat-file", "--batch-command")
    return ObjectReader(start, Patience("git", 30)), start


def test_one_process_sees_every_new_commit_and_a_repacked_repository(repository: Repository) -> None:
    reader, start = over(repository)
    for content in (b"1", b"two\nlines\n", b"", b"x" * 1_000_000):
        head = repository.commit({FILE: content})
        found = reader.describe(["refs/heads/main^{commit}", f"refs/heads/main:{FILE}", "refs/heads/main:absent"])
        assert found is not None
        assert found[0].startswith(f"{head} commit ")
        blob = found[1].partition(" ")[0]
        assert found[1] == f"{blob} blob {len(content)}"
        assert found[2].endswith(" missing")
        assert reader.contents([blob, blob]) == [content, content]
        git(repository.path, "gc", "--quiet", "--prune=now")
    repository.rewind(1)
    assert reader.contents([f"refs/heads/main:{FILE}"]) == [b""]
    assert len(start.processes) == 1
    reader.close()


def test_threads_get_their_own_answers(repository: Repository) -> None:
    reader, start = over(repository)
    shas = [repository.commit({FILE: str(number).encode()}) for number in range(8)]

    def ask(number: int) -> bool:
        return all(reader.contents([f"{shas[number]}:{FILE}"]) == [str(number).encode()] for _ in range(25))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert len(start.processes) == 1
    reader.close()


def test_a_process_that_died_is_replaced_after_a_rest(repository: Repository) -> None:
    now = [0.0]
    start = over(repository)[1]
    reader = ObjectReader(start, Patience("git", 30), clock=lambda: now[0])
    assert reader.describe(["HEAD"]) is not None
    start.processes[0].kill()
    assert reader.describe(["HEAD"]) is None
    assert reader.describe(["HEAD"]) is None, "it rests"
    now[0] += object_reader.REST_S
    assert reader.describe(["HEAD"]) is not None
    assert len(start.processes) == 2
    assert not runs(start.processes[0].pid)
    reader.close()


COMPLAINS = """
import sys
sys.stdin.readline()
print("error: object file is empty", file=sys.stderr, flush=True)
print("x missing", flush=True)
sys.stdin.read()
"""
SAYS_MORE = "import sys; sys.stdin.readline(); print('x missing\\nand more', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("code", ["", "print('usage: git cat-file'); raise SystemExit(129)", COMPLAINS, SAYS_MORE])
def test_what_is_not_as_usual_is_no_answer(code: str) -> None:
    reader = ObjectReader(python(code), Patience("git", 30))
    assert reader.describe(["HEAD"]) is None


def test_content_that_is_not_there_is_no_answer(repository: Repository) -> None:
    reader, _ = over(repository)
    assert reader.contents(["0" * 40]) is None


def test_a_process_that_does_not_answer_is_ended_in_time() -> None:
    start = python("import time; time.sleep(3600)")
    with pytest.raises(SourceUnreachable, match=r"within 0\.1 s"):
        ObjectReader(start, Patience("git", 0.1)).describe(["HEAD"])
    assert not runs(start.processes[0].pid)


def test_a_question_that_does_not_fit_into_a_pipe_is_not_asked(repository: Repository) -> None:
    reader, start = over(repository)
    assert reader.describe(["0" * 40] * 1000) is None
    assert not start.processes
    [described] = Git(repository.path, 30).describe(["HEAD"] * 3000)[:1]
    assert described is not None


def test_no_process_lives_for_ever(repository: Repository) -> None:
    reader, start = over(repository)
    reader.describe(["HEAD"])
    reader._uses = object_reader.MOST_USES
    assert reader.describe(["HEAD"]) is not None
    assert not runs(start.processes[0].pid)
    reader.close()


def test_damage_is_an_error_as_without_it(repository: Repository) -> None:
    here = Git(repository.path, 30)
    git(repository.path, "config", "fastimport.unpackLimit", "100000")
    head = repository.commit({FILE: b"something new"})
    blob = git(repository.path, "rev-parse", f"{head}:{FILE}")
    assert here.head("main") == head
    file = repository.path / "objects" / blob[:2] / blob[2:]
    file.chmod(0o644)
    file.write_bytes(b"rubbish")
    with pytest.raises(SourceUnreachable, match=f"object {blob} is not in the spec repository"):
        here.contents([blob])
    assert here.head("main") == head, "the rest can still be read"


def test_it_ends_with_whoever_started_it(repository: Repository) -> None:
    code = f"""
import os
from pathlib import Path
from reconciler.shell.git import Git
here = Git(Path({str(repository.path)!r}), 30)
here.head("main")
print(here._reader._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=os.environ)
    pid, ended = int(done.stdout), threading.Event()
    for _ in range(500):
        if not runs(pid):
            break
        ended.wait(0.01)
    assert not runs(pid)
