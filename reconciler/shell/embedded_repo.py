"""The embedded spec repository: a bare one in the state folder, made once from the template."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from reconciler.core.history import API_EMAIL, API_NAME
from reconciler.errors import SourceUnreachable
from reconciler.shell.git import Git, sync_folder
from reconciler.shell.objects import object_id

FIRST_SUBJECT = "Start from specs-template"

Sign: TypeAlias = Callable[[bytes], bytes]
"""A commit object to the same with a signature in it (`SigningKey.sign`)."""

_LEFT_BEHIND_S = 3600.0

_CONFIG = {
    "core.fsync": "committed,reference",
    "core.fsyncMethod": "fsync",
    # What is pushed is checked before it is stored; names and times of commits are read from it later.
    "receive.fsckObjects": "true",
}

# Run by git for each push. Names of models hang on the branch's first parents (`core.history`), and a plain `git pull`
# with local commits turns them round: whatever came onto the branch meanwhile would look as if that pull had brought
# it, and other people's models would be renamed.
_UPDATE_HOOK = """\
#!/bin/sh
[ "$1" = "refs/heads/{branch}" ] || exit 0
git merge-base --is-ancestor "$2" "$3" 2>/dev/null || exit 0
first=$(git rev-list --first-parent "$2..$3" | tail -n 1)
[ -z "$first" ] && exit 0
[ "$(git rev-parse --verify --quiet "$first^1")" = "$2" ] && exit 0
echo "refused: {branch} was merged into your branch, which would rename the models that came meanwhile." >&2
echo "Right would be: git pull --rebase, and push again." >&2
exit 1
"""

PUSHED = "argus-pushed"
"""A file in the repository that each push to the branch writes: the commit that the branch is at now."""

# Run by git after each push: it tells Argus at once, and tells whoever pushed where to look. No Python, nothing that
# waits, nothing that fails the push: Argus may be down, and the file may be another account's.
_POST_RECEIVE_HOOK = """\
#!/bin/sh
{mark}
while read -r _ new ref; do
  [ "$ref" = "refs/heads/{branch}" ] || continue
  (printf '%s\\n' "$new" >{file}) 2>/dev/null
  case $new in
    *[!0]*) printf 'What comes of it: argus commits --wait %.12s\\n' "$new" >&2 ;;
  esac
done
exit 0
"""
_OURS = "# Written by Argus, which writes it anew; remove this line to keep a hook of your own."


def ensure(
    path: Path, template: Path, *, branch: str = "main", timeout_s: float = 30, sign: Sign | None = None
) -> bool:
    """Make the bare repository `path` from the files of the folder `template`.

    One that is there stays as it is, but for the hook that tells of pushes, which it gets or gets anew.

    It is built aside and renamed, so it is there whole or not at all: whoever is killed in the middle leaves a folder
    that the next call (an hour later) removes, and of two that race one wins. `sign` puts the platform's signature into
    the first commit, where commits are ruled upon. Gives True where this call made it.
    Raises SourceUnreachable where git fails, `path` is something else or the disk refuses.
    """
    if (path / "HEAD").is_file():
        with suppress(OSError, UnicodeDecodeError):  # the branch's own file is watched, too
            _tell_of_pushes(path, branch)
        return False
    if not template.is_dir():
        raise SourceUnreachable(f"the template {template} of the spec repository is no folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            _build(aside, _files(template), branch, timeout_s)
            if sign is not None:
                _sign(Git(aside, timeout_s), branch, sign)
            return _put(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise SourceUnreachable(f"the spec repository {path} cannot be made: {error.strerror or error}") from None


def _build(folder: Path, files: Mapping[str, bytes], branch: str, timeout_s: float) -> None:
    git = Git(folder, timeout_s)
    git.run("init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}")
    for key, value in _CONFIG.items():
        git.run("config", key, value)
    hook = folder / "hooks" / "update"
    hook.parent.mkdir()
    hook.write_text(_UPDATE_HOOK.format(branch=branch), encoding="ascii")
    hook.chmod(0o755)
    _tell_of_pushes(folder, branch)
    by = f"{API_NAME} <{API_EMAIL}> {int(time.time())} +0000"
    stream = [f"commit refs/heads/{branch}\nauthor {by}\ncommitter {by}\n".encode(), _data(FIRST_SUBJECT.encode())]
    for name, content in sorted(files.items()):
        stream += [b"M 100644 inline ", _quoted(name), b"\n", _data(content)]
    git.run("fast-import", "--quiet", stdin=b"".join([*stream, b"done\n"]))
    sync_folder(folder / "refs" / "heads")


def _sign(git: Git, branch: str, sign: Sign) -> None:
    [commit] = git.contents([f"refs/heads/{branch}"])
    signed = sign(commit)
    git.write_objects([("commit", signed)])
    git.run("update-ref", f"refs/heads/{branch}", object_id("commit", signed))


def _tell_of_pushes(folder: Path, branch: str) -> None:
    """Have git tell of pushes, unless somebody has put a hook of their own in that place."""
    hook = folder / "hooks" / "post-receive"
    text = _POST_RECEIVE_HOOK.format(mark=_OURS, branch=branch, file=PUSHED)
    if not (folder / PUSHED).exists():
        (folder / PUSHED).touch()  # so that it is ours, whoever pushes first
    if hook.exists():
        there = hook.read_text(encoding="utf-8")
        if there == text or _OURS not in there:
            return
    hook.parent.mkdir(exist_ok=True)
    aside = hook.with_name(f".post-receive.{os.getpid()}")
    aside.write_text(text, encoding="ascii")
    aside.chmod(0o755)
    aside.replace(hook)


def _put(aside: Path, path: Path) -> bool:
    aside.chmod(0o755)
    try:
        aside.rename(path)  # onto an empty folder too, but never onto one that holds something
    except OSError:
        if (path / "HEAD").is_file():
            return False
        raise
    sync_folder(path.parent)
    return True


def _files(template: Path) -> dict[str, bytes]:
    """Read the template: plain files only, at any depth."""
    found = {}
    for folder, _, names in os.walk(template):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                found[file.relative_to(template).as_posix()] = file.read_bytes()
    return found


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _quoted(name: str) -> bytes:
    r"""Quote a path as git does: in double quotes, with `\` before `\` and `"`, and line feeds as `\n`."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return b'"' + escaped.encode(errors="surrogateescape") + b'"'


def _sweep(path: Path) -> None:
    """Remove what a build that was killed has left behind."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(leftover)
