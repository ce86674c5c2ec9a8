"""`argus validate`: check specs on this disk exactly as the reconciler will, without Ray, a network or a platform."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from argus.reports import FORMATS, Report
from reconciler.core.desired import PLAIN_FILE
from reconciler.findings import (
    LINK,
    Finding,
    Rule,
    Severity,
    judge,
    judge_content,
    judge_rules,
    named_users,
    unknown_user,
)
from reconciler.names import RULES_FILE, USERS_FOLDER, is_user_id, split_path
from reconciler.rules import MAX_BYTES
from reconciler.spec import Limits
from reconciler.yamlsafe import quoted

MOST_FILES = 100_000
"""How many files one run looks at."""
DEEPEST = 16
"""How many folders may lie in each other below the repository's root."""

MOST_CODEOWNERS = 3 * 1024 * 1024
"""Bytes of CODEOWNERS that are read; GitHub itself reads no larger one."""


class Misused(Exception):
    """The command cannot do what it was asked: a path that is not there, no root. Exit status 2."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `owner` is whose spec a file outside of `users/` is taken for."""

    paths: tuple[str, ...]
    root: str | None = None
    form: str = "text"
    owner: str | None = None
    strict: bool = False


def run(options: Options, limits: Limits, version: str) -> tuple[int, str]:
    """Check what `options` name. Gives the exit status (0: fine, 1: problems) and what to print. Raises Misused."""
    if options.owner is not None and not is_user_id(options.owner):
        raise Misused(f"--user {quoted(options.owner)} is no user id")
    here = Path.cwd()
    named = [Path(os.path.abspath(here / path)) for path in options.paths] or [here]
    root = Path(os.path.abspath(here / options.root)) if options.root else _root_of(named)
    if not root.is_dir():
        raise Misused(f"the root {root} is no folder")
    known = _owned(root)
    specs, findings = 0, []
    for file in _unique(_files(root, named)):
        is_spec, found = _check(root, file, options.owner, limits)
        specs += is_spec
        stranger = unknown_user(str(file), known)
        if stranger is not None:
            known |= {file.parts[1]}  # once a user is enough
        shown = _shown(root / file, root, here)
        findings += [replace(each, path=shown) for each in (found, stranger) if each is not None]
    findings.sort(key=lambda each: (each.path, each.line or 0))
    bad = [each for each in findings if options.strict or each.severity is Severity.ERROR]
    return (1 if bad else 0), FORMATS[options.form](Report(findings, specs, version))


def _root_of(paths: Iterable[Path]) -> Path:
    """Find the repository's root for all paths. Raises Misused."""
    roots = set()
    for path in paths:
        if not os.path.lexists(path):
            raise Misused(f"there is no {path}")
        root = _root_above(path)
        if root is None:
            raise Misused(
                f"no spec repository holds {path}: neither it nor a folder above has {USERS_FOLDER}/; name the "
                "repository's root with --root"
            )
        roots.add(root)
    if len(roots) > 1:
        raise Misused("the paths lie in several repositories; check one at a time")
    return roots.pop()


def _root_above(path: Path) -> Path | None:
    """Find the folder that holds `users/`: in a clone the outermost, for a user may be called `users`; else the next.

    A clone without any is its own root.
    """
    with_users = []
    for folder in (path, *path.parents):
        if (folder / USERS_FOLDER).is_dir():
            with_users.append(folder)
        if (folder / ".git").exists():
            return with_users[-1] if with_users else folder
    return with_users[0] if with_users else None


def _files(root: Path, named: Iterable[Path]) -> Iterator[PurePosixPath]:
    """Give the files that are named, and those below `users/` of the folders that are, relative to the root."""
    users = root / USERS_FOLDER
    for path in named:
        if not os.path.lexists(path):
            raise Misused(f"there is no {path}")
        if path != root and root not in path.parents:
            raise Misused(f"{path} lies outside of the repository {root}")
        if path.is_symlink() or not path.is_dir():
            yield _relative(path, root)
        elif path == users or users in path.parents:
            yield from _walk(path, root)
        elif users.is_symlink():
            yield _relative(users, root)
        elif path == root:
            if os.path.lexists(root / RULES_FILE):
                yield PurePosixPath(RULES_FILE)
            if users.is_dir():
                yield from _walk(users, root)


def _walk(folder: Path, root: Path) -> Iterator[PurePosixPath]:
    """Give what lies below a folder, links to folders as the links that they are to git."""
    for here, folders, files in os.walk(folder, onerror=_unreadable):
        at = Path(here)
        links = [name for name in folders if (at / name).is_symlink()]
        yield from (_relative(at / name, root) for name in sorted([*files, *links]))
        too_deep = len(at.relative_to(root).parts) >= DEEPEST
        folders[:] = [] if too_deep else sorted(name for name in folders if name != ".git" and name not in links)


def _unreadable(error: OSError) -> None:
    raise Misused(f"cannot read the folder {error.filename}: {error.strerror}")


def _unique(files: Iterable[PurePosixPath]) -> Iterator[PurePosixPath]:
    seen: set[PurePosixPath] = set()
    for file in files:
        if file in seen:
            continue
        seen.add(file)
        if len(seen) > MOST_FILES:
            raise Misused(f"there are more than {MOST_FILES} files; check the folders of some users at a time")
        yield file


def _owned(root: Path) -> frozenset[str]:
    """Give the users that the repository's CODEOWNERS names; none where it has none."""
    for folder in (".", ".github", ".gitea", ".gitlab", "docs"):
        with suppress(OSError):
            return named_users(_read(root / folder / "CODEOWNERS", MOST_CODEOWNERS).decode(errors="replace"))
    return frozenset()


def _check(root: Path, file: PurePosixPath, owner: str | None, limits: Limits) -> tuple[bool, Finding | None]:
    """Say whether a file is a spec, and what is wrong with it."""
    path = str(file)
    is_spec = split_path(path) is not None
    foreign = file.parts[0] != USERS_FOLDER
    is_rules = path == RULES_FILE and owner is None
    most = MAX_BYTES if is_rules else limits.max_bytes
    try:
        mode = _mode(root / file)
        if mode is None:
            return False, None
        content = _read(root / file, most) if (is_spec or foreign) and mode != LINK else b""
    except OSError as error:
        return is_spec, Finding(path, Severity.ERROR, Rule.UNREADABLE, f"cannot be read: {error.strerror}")
    if is_rules:
        return False, judge_rules(path, mode, content)
    if foreign and owner is not None:
        return True, judge_content(path, content, owner=owner, suffix=None, limits=limits)
    if foreign:
        message = f"ignored: lies outside of {USERS_FOLDER}/; --user <user_id> checks it as a spec of that user"
        return False, Finding(path, Severity.WARNING, Rule.IGNORED, message)
    return is_spec, judge(path, mode, content, limits)


_PROGRAM = "100755"


def _mode(path: Path) -> str | None:
    """Give the mode that git would store; None for what git does not store at all (a pipe, a socket)."""
    found = path.lstat().st_mode
    if stat.S_ISLNK(found):
        return LINK
    if not stat.S_ISREG(found):
        return None
    return _PROGRAM if found & stat.S_IXUSR else PLAIN_FILE


def _read(path: Path, most: int) -> bytes:
    """Read a file, of a larger one enough to see that it is too large."""
    with path.open("rb") as file:
        return file.read(most + 1)


def _relative(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(root).as_posix())


def _shown(path: Path, root: Path, here: Path) -> str:
    """Name a file for a reader in the folder `here`: relative to it, else to the repository's root."""
    return path.relative_to(here if here in path.parents else root).as_posix()
