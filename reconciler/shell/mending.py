"""Writing a damaged blob anew, by whoever has its content.

Git does not do that: what it has a file or an index's entry of, it never writes again, and goes on to refer to it. A
loose object of the right content is found by git where a packed one cannot be read, so it mends both.
"""

from __future__ import annotations

import os
import secrets
import zlib
from contextlib import suppress
from pathlib import Path

from reconciler.errors import SourceUnreachable
from reconciler.shell.git import Git, sync_folder
from reconciler.shell.objects import object_id


def mend(git: Git, content: bytes, *, if_missing: bool = False) -> bool:
    """See that a blob which the repository has can be read; True where it was damaged. Durable when this returns.

    One that it does not have is left to whoever writes it, unless it should be there: `if_missing`. Raises
    SourceUnreachable.
    """
    blob = object_id("blob", content)
    file = git.folder / "objects" / blob[:2] / blob[2:]
    if not if_missing and git.describe([blob])[0] is None and not file.exists():
        return False
    if git.blobs([blob], len(content))[blob] == content:
        return False
    try:
        _replace(file, zlib.compress(b"blob %d\0%s" % (len(content), content), 1))
    except OSError as error:
        raise SourceUnreachable(f"object {blob} cannot be mended: {type(error).__name__}") from None
    return True


def _replace(file: Path, data: bytes) -> None:
    """Put a file in the place of another at once. One that is left behind is what `git gc` takes for garbage."""
    fresh = file.with_name(f"tmp_obj_{secrets.token_hex(4)}")
    file.parent.mkdir(exist_ok=True)
    try:
        opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(opened, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
    sync_folder(file.parent)
