"""Two revisions of a repository compared, for plans: read from its objects alone, nothing is checked out or run."""

from __future__ import annotations

from pathlib import Path

from reconciler.core.history import History, PathChange, RawCommit
from reconciler.errors import ArgusError, SourceUnreachable
from reconciler.shell.commit_log import LOG, parse_log, path_change
from reconciler.shell.git import Git
from reconciler.shell.git_answers import is_object_id, scrub


class NoSuchRevision(ArgusError):
    """The repository does not have what was named, or not enough of its history."""

    code = "no_such_revision"


def git_folder(repository: Path) -> Path:
    """Find the folder with the objects of a clone, a work tree or a bare repository, from any folder inside of it.

    Raises NoSuchRevision where there is none.
    """
    for folder in (repository, *repository.parents):
        link = folder / ".git"
        if link.is_dir():
            return link
        if link.is_file():
            named = link.read_text(encoding="utf-8", errors="replace").partition("gitdir:")[2].strip()
            return (folder / named).resolve()
        if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
            return folder
    raise NoSuchRevision(f"{repository} is not in a git repository; name one with --repo")


def resolve(git: Git, name: str) -> str:
    """Give the SHA of the commit that `name` stands for. Raises NoSuchRevision, SourceUnreachable."""
    outcome = git.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    sha = outcome.out.decode(errors="replace").strip()
    if outcome.status != 0 or not is_object_id(sha):
        raise NoSuchRevision(f"{scrub(name)!r} is no commit of the repository")
    return sha


def history_at(git: Git, sha: str) -> History:
    """Give the history that ends at a commit, as the loop would read it if its branch ended there.

    Raises SourceUnreachable.
    """
    history = History()
    try:
        history.extend(parse_log(git.run(*LOG, "--end-of-options", sha, "--")))
    except ValueError as error:
        raise SourceUnreachable(f"the history of {sha} cannot be read: {error}") from None
    return history


def brought(git: Git, base: str, head: str) -> tuple[PathChange, ...]:
    """Give what `head` has changed since it parted from `base`: what merging it would bring.

    Raises NoSuchRevision where the two have nothing in common (a shallow clone, or unrelated histories), and
    SourceUnreachable.
    """
    fork = _fork(git, base, head)
    out = git.run("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-relative", fork, head)
    tokens = out.split(b"\0")
    return tuple(path_change(what, path) for what, path in zip(tokens[:-1:2], tokens[1::2], strict=False))


def commits_of(git: Git, base: str, head: str) -> list[RawCommit]:
    """Give the commits of `head`, along first parents and oldest first, since it parted from `base`.

    Raises as `brought` does.
    """
    out = git.run(*LOG, "--end-of-options", head, f"^{_fork(git, base, head)}", "--")
    return parse_log(out) if out else []


def _fork(git: Git, base: str, head: str) -> str:
    outcome = git.attempt("merge-base", base, head)
    fork = outcome.out.decode(errors="replace").strip()
    if outcome.status != 0 or not is_object_id(fork):
        raise NoSuchRevision(
            f"{base[:12]} and {head[:12]} have no commit in common here; in a shallow clone, fetch all of the history"
        )
    return fork
