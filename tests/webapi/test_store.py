"""The store: one commit a write, by the user, on top of what others write at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.errors import ArgusError, Moved, SourceUnreachable
from reconciler.shell.embedded_repo import FIRST_SUBJECT, ensure
from reconciler.shell.source import GitSource
from tests.repositories import Repository, git
from webapi.spec_reader import MAX_BLOB_BYTES
from webapi.store import NotAFileError, Overtaken, SpecStore

ROOT = Path(__file__).parents[2]
ANN = "users/ann/a.yaml"
SUBJECT = "Create a"


class ConflictError(ArgusError):
    """What a caller raises from inside a change."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "specs.git")
    made.commit({"README.md": b"hello\n", "users/ann/.gitkeep": b"", "users/bob/b.yaml": b"model_id: b\n"})
    return made


def opened(repository: Repository, **options: float) -> SpecStore:
    return SpecStore(
        GitSource(str(repository.path), home=repository.path.parent, timeout_s=options.pop("timeout_s", 60)),
        stale_lock_s=options.pop("stale_lock_s", 15),
    )


def through_a_remote(repository: Repository, home: str = "home") -> SpecStore:
    return SpecStore(GitSource(repository.path.as_uri(), home=repository.path.parent / home, timeout_s=60))


@pytest.fixture(params=[opened, through_a_remote], ids=["embedded", "remote"])
def store(request: pytest.FixtureRequest, repository: Repository) -> SpecStore:
    made: SpecStore = request.param(repository)
    return made


def to(content: bytes | None) -> Callable[[bytes | None], bytes | None]:
    return lambda _before: content


def test_a_write_is_one_commit_by_the_user_of_exactly_the_text_that_was_sent(
    store: SpecStore, repository: Repository
) -> None:
    text = b"# mine\r\nmodel_id:   a\n\n\xc3\xa4\tno newline at the end"
    before = repository.head()
    written = store.write(ANN, to(text), author="ann", subject="Create a")
    assert written.changed
    assert written.commit == written.revision == repository.head()
    assert repository.show(ANN) == text
    assert repository.log("%H %P %an %cn %ce %s", "-1") == [
        f"{written.commit} {before} ann {API_NAME} {API_EMAIL} Create a"
    ]
    assert repository.changed_paths(str(written.commit)) == [ANN]
    repository.check()


def test_a_write_tells_whose_model_it_is_and_can_be_read_at_once(store: SpecStore, repository: Repository) -> None:
    written = store.write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    assert written.identity
    file = store.read().files[written.identity.model_key]
    assert (file.identity, file.commit.sha, file.commit.source) == (written.identity, written.commit, "api")
    assert store.text(ANN) == b"1"
    again = store.write(ANN, to(b"2"), author="ann", subject="Update a")
    assert again.identity == written.identity
    assert store.read() == opened(repository).read(), "what a writer knows of its own writes is what git says of them"
    gone = store.write(ANN, to(None), author="ann", subject="Delete a")
    assert gone.identity == written.identity
    assert store.text(ANN) is None
    assert written.identity.model_key not in store.read().files


def test_a_write_that_changes_nothing_makes_no_commit_and_names_the_one_that_counts(
    store: SpecStore, repository: Repository
) -> None:
    first = store.write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    head = repository.commit({"README.md": b"other\n"})
    again = store.write(ANN, lambda before: before, author="ann", subject=SUBJECT)
    assert (again.changed, again.commit, again.revision, again.identity) == (False, first.commit, head, first.identity)
    keep = store.write("users/ann/.gitkeep", to(b""), author="admin", subject="Create user ann")
    assert (keep.changed, keep.commit) == (False, repository.log("%H")[-1])
    absent = store.write("users/ann/z.yaml", to(None), author="ann", subject="Delete z")
    assert (absent.changed, absent.commit, absent.identity) == (False, None, None)
    assert repository.head() == head


def test_the_change_sees_what_is_there_and_its_error_is_the_callers(store: SpecStore, repository: Repository) -> None:
    seen: list[bytes | None] = []

    def refuse(before: bytes | None) -> bytes | None:
        seen.append(before)
        raise ConflictError("there already")

    head = repository.head()
    for path in (ANN, "users/bob/b.yaml"):
        with pytest.raises(ConflictError):
            store.write(path, refuse, author="ann", subject=SUBJECT)
    assert seen == [None, b"model_id: b\n"]
    assert repository.head() == head


def test_the_subject_may_depend_on_what_was_there(store: SpecStore, repository: Repository) -> None:
    def subject(before: bytes | None, _after: bytes | None) -> str:
        return "Create a" if before is None else "Update a\nand\x00more"

    for content in (b"1", b"2"):
        store.write(ANN, to(content), author="ann", subject=subject)
    assert repository.log("%s", "-2") == ["Update a and more", "Create a"]


def test_a_deletion_takes_empty_folders_along_and_nothing_else(store: SpecStore, repository: Repository) -> None:
    written = store.write("users/bob/b.yaml", to(None), author="bob", subject="Delete b")
    assert repository.changed_paths(str(written.commit)) == ["users/bob/b.yaml"]
    assert git(repository.path, "ls-tree", "--name-only", "main", "users/") == "users/ann"
    store.write("users/ann/.gitkeep", to(None), author="admin", subject="Delete ann")
    assert git(repository.path, "ls-tree", "--name-only", "main") == "README.md"
    repository.check()


def test_the_first_write_gives_birth_to_the_branch(tmp_path: Path) -> None:
    empty = Repository(tmp_path / "empty.git")
    for store, path in ((opened(empty), ANN), (through_a_remote(empty), "users/bob/b.yaml")):
        store.write(path, to(b"1"), author="ann", subject=SUBJECT)
    assert [len(line.split()) for line in empty.log("%H %P")] == [2, 1]
    empty.check()


def test_other_peoples_files_pass_through_whatever_their_names_are(repository: Repository) -> None:
    blob = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"x")
    listing = f'100644 blob {blob}\t\udcff\udcfe\0100755 blob {blob}\ta b\n"c\0120000 blob {blob}\tann.yaml\0'
    users = git(repository.path, "mktree", "-z", stdin=listing.encode(errors="surrogateescape"))
    root = git(repository.path, "mktree", stdin=f"040000 tree {users}\tusers\n".encode())
    commit = git(repository.path, "commit-tree", "-m", "odd", root)
    git(repository.path, "update-ref", "refs/heads/main", commit)
    written = opened(repository).write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    assert repository.changed_paths(str(written.commit)) == [ANN]
    repository.check()


def test_a_file_of_another_mode_becomes_a_plain_one(repository: Repository) -> None:
    repository.commit({ANN: b"same"}, modes={ANN: "100755"})
    written = opened(repository).write(ANN, to(b"same"), author="ann", subject=SUBJECT)
    assert written.changed
    assert git(repository.path, "ls-tree", "main", ANN).startswith("100644 blob")


def test_a_folder_in_the_files_place_is_refused(repository: Repository) -> None:
    store = opened(repository)
    repository.commit({f"{ANN}/inside": b"x", "users/carl": b"a file"})
    for path in (ANN, "users/carl/c.yaml"):
        with pytest.raises(NotAFileError, match=path):
            store.write(path, to(b"1"), author="ann", subject=SUBJECT)
    assert store.text(ANN) is None


@pytest.mark.parametrize(
    "path",
    ["", "a.yaml", "/users/ann/a.yaml", "users/../a.yaml", "users/ann/..", "users//a.yaml", "users/ann/a.yaml\n",
     "users/.git/config", "users/ann/.GIT", "users/ann/ü.yaml", "users/ann/", "users/./ann/a.yaml", "users/a:b/c"],
)  # fmt: skip
def test_a_path_that_is_none_is_a_mistake_of_the_caller(repository: Repository, path: str) -> None:
    store = opened(repository)
    with pytest.raises(ValueError, match="no path"):
        store.write(path, to(b"1"), author="ann", subject=SUBJECT)
    with pytest.raises(ValueError, match="no path"):
        store.text(path)


@pytest.mark.parametrize("author", ["", "ann <x@y>", "ann\ncommitter eve", "\0", "ann>"])
def test_an_author_cannot_write_more_than_a_name(repository: Repository, author: str) -> None:
    with pytest.raises(ValueError, match="no author"):
        opened(repository).write(ANN, to(b"1"), author=author, subject=SUBJECT)


def test_a_huge_file_shows_that_it_is_too_large(repository: Repository) -> None:
    repository.commit({ANN: b"x" * (MAX_BLOB_BYTES + 5)})
    store = opened(repository)
    seen: list[int] = []

    def look(before: bytes | None) -> bytes:
        seen.append(len(before or b""))
        return b"small"

    store.write(ANN, look, author="ann", subject=SUBJECT)
    assert seen == [MAX_BLOB_BYTES + 1]


def test_time_never_runs_backwards_along_the_branch(repository: Repository) -> None:
    source = GitSource(str(repository.path), home=repository.path.parent)
    for clock, content in ((2e9, b"1"), (1e9, b"2"), (3e9, b"3")):
        SpecStore(source, clock=lambda clock=clock: clock).write(ANN, to(content), author="ann", subject=SUBJECT)  # type: ignore[misc]
    assert repository.log("%ct", "-3") == ["3000000000", "2000000000", "2000000000"]


def test_a_file_made_anew_meanwhile_counts_as_absent_for_the_old_models_key(repository: Repository) -> None:
    store = opened(repository)
    old = store.write(ANN, to(b"1"), author="ann", subject=SUBJECT).identity
    store.write(ANN, to(None), author="ann", subject="Delete a")
    new = store.write(ANN, to(b"2"), author="ann", subject=SUBJECT).identity
    assert old
    assert new
    seen: list[bytes | None] = []

    def look(before: bytes | None) -> bytes | None:
        seen.append(before)
        return before

    store.write(ANN, look, author="ann", subject=SUBJECT, model_key=old.model_key)
    store.write(ANN, look, author="ann", subject=SUBJECT, model_key=new.model_key)
    assert seen == [None, b"2"]
    with pytest.raises(Moved, match="another model's"):
        store.write(ANN, to(b"3"), author="ann", subject=SUBJECT, model_key=old.model_key)
    assert store.text(ANN) == b"2"


# Writers at the same time


def test_a_write_that_lost_the_race_starts_over_on_what_won(store: SpecStore, repository: Repository) -> None:
    seen: list[bytes | None] = []

    def append(before: bytes | None) -> bytes:
        seen.append(before)
        if len(seen) == 1:  # somebody pushes between our look and our write
            repository.commit({"users/bob/b.yaml": b"pushed\n"})
        return (before or b"") + b"ours\n"

    store.write(ANN, append, author="ann", subject=SUBJECT)
    assert seen == [None, None]
    assert repository.show(ANN) == b"ours\n"
    assert repository.show("users/bob/b.yaml") == b"pushed\n"


def test_a_file_that_somebody_else_changes_in_between_is_a_conflict_with_both_commits(
    store: SpecStore, repository: Repository
) -> None:
    base = store.write(ANN, to(b"1\n"), author="ann", subject=SUBJECT).commit
    pushed: list[str] = []

    def overtaken(_before: bytes | None) -> bytes:
        if not pushed:
            pushed.append(repository.commit({ANN: b"pushed\n"}))
        return b"ours\n"

    with pytest.raises(Overtaken) as caught:
        store.write(ANN, overtaken, author="ann", subject=SUBJECT)
    assert (caught.value.base, caught.value.current) == (base, pushed[0])
    assert repository.show(ANN) == b"pushed\n"


def test_two_who_write_the_same_do_not_conflict(store: SpecStore, repository: Repository) -> None:
    pushed: list[str] = []

    def same(_before: bytes | None) -> bytes:
        if not pushed:
            pushed.append(repository.commit({ANN: b"same\n"}))
        return b"same\n"

    written = store.write(ANN, same, author="ann", subject=SUBJECT)
    assert (written.changed, written.commit) == (False, pushed[0])


def test_a_branch_that_never_stands_still_is_given_up(repository: Repository) -> None:
    def overtaken(before: bytes | None) -> bytes:
        repository.commit({"README.md": str(time.monotonic()).encode()})
        return b"ours"

    with pytest.raises(Moved):
        opened(repository, timeout_s=1.5).write(ANN, overtaken, author="ann", subject=SUBJECT)


def test_a_remote_that_refuses_is_an_error_with_its_reason_and_not_tried_for_ever(repository: Repository) -> None:
    hook = repository.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho secret words; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(SourceUnreachable) as caught:
        through_a_remote(repository).write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    assert "secret" not in str(caught.value)


def test_threads_and_processes_with_mirrors_of_their_own_all_land(repository: Repository) -> None:
    stores = [opened(repository), through_a_remote(repository), through_a_remote(repository, "other")]

    def write(number: int) -> None:
        path = f"users/ann/m{number}.yaml"
        stores[number % 3].write(path, to(b"x"), author="ann", subject=f"Create m{number}")

    before = len(repository.log("%H"))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(12)))
    assert len(repository.log("%H", "--first-parent")) == before + 12
    assert len(opened(repository).read().files) == 13


WRITER = """
import sys
from pathlib import Path
from reconciler.shell.source import GitSource
from webapi.store import SpecStore
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = SpecStore(GitSource(str(path), home=path.parent, timeout_s=60), stale_lock_s=float(sys.argv[4]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    written = store.write(
        f"users/{name}/m{number}.yaml", lambda before: b"x: 1\\n", author=name, subject=f"Create m{number}"
    )
    print(written.commit, flush=True)
"""


def start_writer(repository: Repository, name: str, count: int, stale_lock_s: float = 15) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(repository.path), name, str(count), str(stale_lock_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(*writers: subprocess.Popen[str]) -> None:
    """Let writers begin together, when all of them are ready."""
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()


def test_four_processes_that_write_at_once_all_land_in_one_line(repository: Repository) -> None:
    before = repository.log("%H")
    writers = [start_writer(repository, f"u{number}", 10) for number in range(4)]
    go(*writers)
    reported = {sha for writer in writers for sha in writer.communicate(timeout=100)[0].split()}
    assert [writer.returncode for writer in writers] == [0] * 4

    log = [line.split() for line in repository.log("%H %P")]
    assert len(log) == len(before) + 40
    assert all(len(line) <= 2 for line in log), "no merges: every commit has at most one parent"
    assert {line[0] for line in log} - set(before) == reported
    assert {len(repository.changed_paths(sha)) for sha in reported} == {1}
    assert len(opened(repository).read().files) == 41
    repository.check()


def test_a_writer_killed_in_the_middle_blocks_nobody_and_loses_nothing_it_reported(repository: Repository) -> None:
    for name in ("u0", "u1", "u2"):
        writer = start_writer(repository, name, 1000, stale_lock_s=0.5)
        go(writer)
        assert writer.stdout
        reported = [writer.stdout.readline().strip() for _ in range(2)]
        children = _children(writer.pid)
        writer.kill()
        for child in children:  # its git as well, wherever it was
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        writer.communicate()
        assert set(reported) <= set(repository.log("%H"))
    opened(repository, stale_lock_s=0.5).write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    repository.check()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("lock", ["refs/heads/main.lock", "HEAD.lock"])
def test_a_lock_that_a_killed_git_left_is_removed_when_it_is_old(repository: Repository, lock: str) -> None:
    left = repository.path / lock
    left.touch()
    os.utime(left, (time.time() - 60, time.time() - 60))
    opened(repository).write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    assert repository.show(ANN) == b"1"
    assert not left.exists()


def test_a_lock_that_somebody_holds_is_waited_for(repository: Repository) -> None:
    held = repository.path / "refs/heads/main.lock"
    held.touch()
    tried = threading.Event()

    def change(_before: bytes | None) -> bytes:
        if tried.is_set():  # the second try: the first found the lock
            held.unlink(missing_ok=True)
        tried.set()
        return b"1"

    opened(repository).write(ANN, change, author="ann", subject=SUBJECT)
    assert repository.show(ANN) == b"1"


def test_a_lock_that_becomes_old_while_a_write_waits_is_removed(repository: Repository) -> None:
    (repository.path / "refs/heads/main.lock").touch()
    opened(repository, stale_lock_s=0.3).write(ANN, to(b"1"), author="ann", subject=SUBJECT)
    assert repository.show(ANN) == b"1"


# The embedded repository


@pytest.fixture
def template(tmp_path: Path) -> Path:
    folder = tmp_path / "template"
    (folder / "users").mkdir(parents=True)
    (folder / "users" / ".gitkeep").touch()
    (folder / "README.md").write_text('a "quoted" text\n')
    (folder / "näme with space.txt").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def test_the_embedded_repository_starts_from_the_template_and_is_then_left_alone(
    tmp_path: Path, template: Path
) -> None:
    path = tmp_path / "home" / "specs.git"
    assert ensure(path, template)
    assert git(path, "log", "--format=%s %cn") == f"{FIRST_SUBJECT} {API_NAME}"
    listed = git(path, "ls-tree", "-r", "-z", "--name-only", "main").strip("\0").split("\0")
    assert sorted(listed) == ["README.md", "näme with space.txt", "users/.gitkeep"]
    head = git(path, "rev-parse", "main")
    assert not ensure(path, template)
    assert git(path, "rev-parse", "main") == head
    assert [found.name for found in path.parent.iterdir()] == ["specs.git"]


def test_the_projects_own_template_makes_no_model(tmp_path: Path) -> None:
    ensure(tmp_path / "specs.git", ROOT / "specs-template")
    tree = GitSource(str(tmp_path / "specs.git"), home=tmp_path).read(None).tree
    assert tree.revision
    assert (tree.files, tree.users) == ({}, frozenset())


def test_a_plain_clone_can_push_and_what_it_pushes_is_checked(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "specs.git"
    ensure(path, template)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(path), str(clone))
    (clone / "users" / "ann").mkdir()
    (clone / ANN).write_text("model_id: a\n")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", "mine")
    git(clone, "push", "--quiet")
    store = SpecStore(GitSource(str(path), home=tmp_path))
    [file] = store.read().files.values()
    assert (file.commit.author, file.commit.source) == ("Ann Author", "git")
    assert git(path, "config", "receive.fsckObjects") == "true"

    # The API writes, the person pulls, and both go on.
    store.write(ANN, to(b"model_id: a\nnum_replicas: 2\n"), author="ann", subject="Scale a")
    git(clone, "pull", "--quiet", "--rebase")
    assert (clone / ANN).read_text() == "model_id: a\nnum_replicas: 2\n"


def test_of_two_that_make_it_at_once_one_wins_and_both_have_it(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "home" / "specs.git"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure(path, template), range(4)))
    assert made.count(True) == 1
    assert len(git(path, "log", "--format=%H").splitlines()) == 1
    assert [found.name for found in path.parent.iterdir()] == ["specs.git"]


def test_what_a_killed_start_left_is_swept_and_does_not_stop_the_next(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "specs.git"
    path.mkdir()  # an empty folder is as good as none
    leftover = tmp_path / ".specs.git.killed"
    leftover.mkdir()
    os.utime(leftover, (time.time() - 7200, time.time() - 7200))
    fresh = tmp_path / ".specs.git.other"
    fresh.mkdir()
    assert ensure(path, template)
    assert not leftover.exists()
    assert fresh.exists()


def test_something_else_in_its_place_is_an_error_and_stays(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "specs.git"
    path.mkdir()
    (path / "precious").touch()
    with pytest.raises(SourceUnreachable, match="cannot be made"):
        ensure(path, template)
    assert (path / "precious").exists()
    with pytest.raises(SourceUnreachable, match="template"):
        ensure(tmp_path / "other.git", tmp_path / "nothing")


def test_a_declaration_is_a_commit_that_changes_nothing_and_is_known_at_once(
    store: SpecStore, repository: Repository
) -> None:
    before = git(repository.path, "rev-parse", "main", "main^{tree}").splitlines()
    store.read()
    said = {"Argus-Allow-Removal": "3"}
    sha = store.declare(said, author="admin", subject="Allow 3 removals", body="Reason: they left")
    assert repository.log("%H|%P|%an|%cn|%s")[0] == f"{sha}|{before[0]}|admin|{API_NAME}|Allow 3 removals"
    assert git(repository.path, "rev-parse", "main^{tree}") == before[1]
    assert git(repository.path, "log", "-1", "--format=%b", "main") == "Reason: they left\n\nArgus-Allow-Removal: 3"
    [known] = store.source.declared([sha])
    fresh = through_a_remote(repository, "another")
    fresh.read()
    assert (known,) == fresh.source.declared([sha])
    repository.check()


def test_a_declaration_loses_a_race_and_comes_after_all(store: SpecStore, repository: Repository) -> None:
    seen = []

    def somebody_is_faster(head: str | None) -> None:
        seen.append(head)
        if len(seen) == 1:
            repository.commit({"README.md": b"faster\n"})

    sha = store.declare({"Argus-Allow-Removal": "3"}, author="admin", subject="x", condition=somebody_is_faster)
    assert len(seen) == 2
    assert repository.head() == sha
    assert repository.show("README.md") == b"faster\n"


def test_a_value_of_a_trailer_is_one_line(store: SpecStore, repository: Repository) -> None:
    store.declare({"Argus-Override-Freeze": "a\nArgus-Allow-Removal: 9"}, author="admin", subject="x")
    told = git(repository.path, "log", "-1", "--format=%(trailers:key=Argus-Allow-Removal)", "main")
    assert not told
