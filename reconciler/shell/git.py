"""The one place that starts git, and the few questions that Argus asks a bare repository.

Everything goes by git's own plumbing on the object database: no work tree, no index, no hooks, nothing of a user's or a
machine's configuration. What comes of them is in `git_answers`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git gets our error, not an ImportError

import git as gitpython  # after the line above

from reconciler.core.entities import Damaged
from reconciler.errors import SourceUnreachable
from reconciler.shell import file_lock
from reconciler.shell.blobs import Blobs
from reconciler.shell.git_answers import BlobInfo, Outcome, described, scrub
from reconciler.shell.object_reader import ObjectReader
from reconciler.shell.objects import Kind, pack
from reconciler.shell.patience import Patience

if TYPE_CHECKING:
    from git.cmd import Git as _GitPythonGit

STALE_LOCK_S = 15.0
"""Age in seconds at which a ref's lock file counts as left behind: git itself holds one for milliseconds."""

_CONFIG = {
    # An answered write has to survive power failure; git's default leaves loose objects and refs to the page cache.
    "core.fsync": "committed,reference",
    "core.fsyncMethod": "fsync",
    # A program that a clone's own configuration names; `diff-tree` asks it although no work tree is looked at.
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.logAllRefUpdates": "false",
    # Housekeeping never starts by itself in the middle of a read or a write.
    "gc.auto": "0",
    "log.showRoot": "true",
    "maintenance.auto": "false",
    "protocol.allow": "never",
    "protocol.file.allow": "always",
    "protocol.https.allow": "always",
    "protocol.ssh.allow": "always",
    "safe.directory": "*",
    "submodule.recurse": "false",
}

_KEPT_VARIABLES = re.compile(
    r"GIT_(?:SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|SSL_(?!NO_VERIFY).*|PROXY_.*|HTTP_.*|EXEC_PATH|PYTHON_.*)\Z"
)
_REMOTE_VERBS = frozenset({"fetch", "push"})


class RemoteAccess(Protocol):
    """What a command needs that goes to a remote (`shell.access`). Both raise SourceUnreachable."""

    def config(self) -> Mapping[str, str]:
        """Give git's configuration, secrets included."""
        ...

    def environment(self) -> Mapping[str, str]:
        """Give variables of the environment."""
        ...


class Git:
    """Git commands on one bare repository, each with a time limit.

    GitPython starts the processes (`git.Git.execute(..., as_process=True)`), and nothing else of it is used:
    its `kill_after_timeout` looks for children with `ps` and cannot feed standard input, its `Repo` reads the user's
    configuration, and its object database writes without fsync under names that `git gc` does not know as garbage.
    """

    def __init__(
        self,
        folder: Path,
        timeout_s: float,
        config: Mapping[str, str] | None = None,
        access: RemoteAccess | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run commands on the bare repository `folder`, each for at most `timeout_s`, with `config` on top of ours.

        `access` is asked at each command that goes to a remote, and only those hear of it. `environment` is what the
        programs need that git starts.
        """
        self.folder = folder
        self.timeout_s = timeout_s
        self._access = access
        self._starter: _GitPythonGit = gitpython.Git(folder)
        settings = {**_CONFIG, **(config or {})}
        self._environment = {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": str(len(settings)),
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GCM_INTERACTIVE": "never",
            **(environment or {}),
        }
        if not {"GIT_SSH", "GIT_SSH_COMMAND"} & os.environ.keys():
            self._environment["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes"  # ssh asks nobody for a password either
        self._environment |= _as_environment(settings, 0)
        self._settings = len(settings)
        self.patience = Patience("git", timeout_s)
        self._reader = ObjectReader(lambda: self._start(("cat-file", "--batch-command")), self.patience)
        self._blobs = Blobs(self)

    def attempt(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        """Run one command and give what it left, whatever its status. Raises SourceUnreachable, also past the limit."""
        # That a remote does not answer says nothing of the repository here.
        patience = Patience("git", self.timeout_s) if arguments[0] in _REMOTE_VERBS else self.patience
        with patience.asking(arguments[0]):
            process = self._start(arguments)
            try:
                out, err = process.communicate(stdin, timeout=self.timeout_s)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its helpers too: it leads a group of its own
                process.communicate()
                raise TimeoutError from None
        return Outcome(process.returncode, out, err)

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run one command and give what it printed. Raises SourceUnreachable, also where it fails."""
        outcome = self.attempt(*arguments, stdin=stdin)
        if outcome.status != 0:
            raise SourceUnreachable(f"git {arguments[0]} failed: {outcome.complaint}")
        return outcome.out

    def head(self, branch: str) -> str | None:
        """Give the SHA of the branch's newest commit; None where the branch is not born. Raises SourceUnreachable."""
        ref = f"refs/heads/{branch}"
        if quick := self._reader.describe([f"{ref}^{{commit}}"]):
            seen = described(quick[0])
            if seen is not None and seen.kind == "commit":
                return seen.id
        outcome = self.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        if outcome.status == 0:
            return outcome.out.decode().strip()
        # A ref that is there and names no commit is damage, and damage is not absence.
        if outcome.status != 1 or outcome.err or (self.folder / ref).is_file():
            raise SourceUnreachable(f"branch {branch} cannot be read: {outcome.complaint}")
        return None

    def describe(self, names: Sequence[str]) -> list[BlobInfo | None]:
        """Say what each name is (`<id>`, `<revision>:<path>`), None for what is not there. Raises SourceUnreachable.

        Names must hold no line feed.
        """
        lines = self._reader.describe(names)
        if lines is None:
            out = self.run("cat-file", "--batch-check", stdin="".join(f"{name}\n" for name in names).encode())
            lines = out.decode(errors="replace").splitlines()
        if len(lines) != len(names):
            raise SourceUnreachable("git cat-file gave an answer that cannot be read")
        return [described(line) for line in lines]

    def contents(self, ids: Sequence[str]) -> list[bytes]:
        """Read objects whole, in the order asked for. Raises SourceUnreachable, also where one is not there."""
        if not ids:
            return []
        if (quick := self._reader.contents(ids)) is not None:
            return quick
        out = self.run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in ids).encode())
        found, position = [], 0
        for name in ids:
            end = out.find(b"\n", position)
            seen = described(out[position:end].decode(errors="replace"))
            if seen is None:
                raise SourceUnreachable(f"object {scrub(name)} is not in the spec repository")
            found.append(out[end + 1 : end + 1 + seen.size])
            position = end + seen.size + 2  # the line feed before and the one after the content
        return found

    def blobs(self, ids: Iterable[str], max_bytes: int) -> dict[str, bytes | Damaged]:
        """Read blobs by id, those larger than `max_bytes` cut to one byte more (`Blobs.read`).

        Raises SourceUnreachable.
        """
        return self._blobs.read(ids, max_bytes)

    def beginning(self, blob: str, size: int) -> Outcome:
        """Read the first `size` bytes of a blob, which may be huge: status 0 where it has as many, or is whole.

        Raises SourceUnreachable.
        """
        with self.patience.asking("cat-file"):
            process, is_late = self._start(("cat-file", "blob", blob)), threading.Event()

            def end_it() -> None:
                is_late.set()
                process.kill()

            watchdog = threading.Timer(self.timeout_s, end_it)
            watchdog.start()
            try:
                start = process.stdout.read(size) if process.stdout else b""
                if len(start) == size:
                    process.kill()
                _, err = process.communicate()
            finally:
                watchdog.cancel()
            if is_late.is_set():
                raise TimeoutError
        return Outcome(0 if len(start) == size else process.returncode, start, err)

    def _start(self, arguments: Sequence[str]) -> gitpython.Git.AutoInterrupt:
        """Start a process. GitPython's wrapper has its Popen's methods, and ends the process when it is dropped."""
        environment = self._environment if arguments[0] not in _REMOTE_VERBS else self._with_access()
        command = [*self._without_inherited(environment), "git", f"--git-dir={self.folder}", *arguments]
        try:
            return self._starter.execute(
                # A group, so that its helpers can be ended with it, and not a session: that would be given as much of
                # the CPU as all engines together, where Linux shares it out by sessions.
                command,
                istream=subprocess.PIPE,
                as_process=True,
                env=environment,
                process_group=0,
            )
        except (gitpython.GitCommandNotFound, OSError) as error:
            raise SourceUnreachable(f"git {arguments[0]} cannot be started: {type(error).__name__}") from None

    def _with_access(self) -> dict[str, str]:
        """Give the environment of a command that goes to the remote. Raises SourceUnreachable."""
        if self._access is None:
            return self._environment
        secret = self._access.config()
        count = {"GIT_CONFIG_COUNT": str(self._settings + len(secret))}
        return {**self._environment, **_as_environment(secret, self._settings), **count, **self._access.environment()}

    def _without_inherited(self, environment: Mapping[str, str]) -> list[str]:
        """Give the words that keep inherited GIT_* variables from git (a hook's GIT_DIR would redirect us).

        GitPython hands the whole environment on and can only add to it; usually there is nothing to take away.
        """
        inherited = (name for name in os.environ if name.startswith("GIT_") and name not in environment)
        unwanted = [name for name in inherited if not _KEPT_VARIABLES.match(name)]
        return ["env", *(word for name in unwanted for word in ("-u", name))] if unwanted else []

    def write_objects(self, objects: Sequence[tuple[Kind, bytes]]) -> None:
        """Store objects given as (kind, content), durable when this returns. Raises SourceUnreachable."""
        self.run("unpack-objects", "-q", stdin=pack(objects))

    def move_branch(self, branch: str, new: str, old: str | None) -> Outcome:
        """Move the branch from `old` (None: unborn) to `new`, and only from there; status 0 where it moved.

        Durable when this returns 0: git syncs the ref's content, and the folder is synced here for its name.
        Raises SourceUnreachable where git cannot be run.
        """
        return self.move_ref(f"refs/heads/{branch}", new, old)

    def move_ref(self, ref: str, new: str, old: str | None) -> Outcome:
        """Do with any full name of a ref what `move_branch` does with a branch."""
        outcome = self.attempt("update-ref", "--end-of-options", ref, new, old or "0" * 40)
        if outcome.status == 0:
            try:
                sync_folder((self.folder / ref).parent)
            except OSError as error:
                raise SourceUnreachable(f"{ref} may be lost at a power failure: {type(error).__name__}") from None
        return outcome

    def clear_stale_locks(self, branch: str, older_than_s: float = STALE_LOCK_S) -> None:
        """Remove lock files of the branch that a killed git left behind, so that they block nobody for ever."""
        self.clear_stale_ref_lock(f"refs/heads/{branch}", older_than_s)

    def clear_stale_ref_lock(self, ref: str, older_than_s: float = STALE_LOCK_S) -> None:
        """Do with any full name of a ref what `clear_stale_locks` does with a branch.

        Only one process at a time looks (`flock` on a file of our own, which the kernel lets go when its holder dies):
        otherwise two could find the same old lock, and the slower one would remove the fresh lock of a third.
        """
        locks = [self.folder / f"{ref}.lock", self.folder / "HEAD.lock"]
        if not any(_is_stale(lock, older_than_s) for lock in locks):
            return
        with self.exclusive("argus-locks"):
            for lock in locks:
                if _is_stale(lock, older_than_s):
                    lock.unlink(missing_ok=True)

    @contextmanager
    def exclusive(self, name: str, *, beside: bool = False, wait_s: float | None = None) -> Iterator[None]:
        """Be the only process of this machine inside, for at most `wait_s` of waiting. Raises SourceUnreachable.

        `wait_s` is the commands' own time limit where it is not given. The file lies in the repository, or `beside` it
        where the repository itself may be replaced.
        """
        limit_s = self.timeout_s if wait_s is None else wait_s
        file = self.folder.with_name(f"{self.folder.name}.{name}.flock") if beside else self.folder / f"{name}.flock"
        with ExitStack() as held:
            try:
                held.enter_context(file_lock.alone(file, limit_s))
            except TimeoutError:
                raise SourceUnreachable(f"{name} is held for more than {limit_s:g} s") from None
            except OSError as error:
                raise SourceUnreachable(f"{name} cannot be locked: {type(error).__name__}") from None
            yield


def _as_environment(settings: Mapping[str, str], first: int) -> dict[str, str]:
    """Write configuration as git reads it from its environment, numbered from `first`."""
    found = {}
    for number, (key, value) in enumerate(settings.items(), first):
        found[f"GIT_CONFIG_KEY_{number}"] = key
        found[f"GIT_CONFIG_VALUE_{number}"] = value
    return found


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power failure."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _is_stale(lock: Path, older_than_s: float) -> bool:
    """Say whether a lock file is there and old. One from the future (the clock was put back) counts as old."""
    try:
        return abs(time.time() - lock.stat().st_mtime) > older_than_s
    except FileNotFoundError:
        return False
