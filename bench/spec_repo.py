"""The spec repository at size: a write, a read of what is new, and the first read of everything.

    .venv/bin/python bench/spec_repo.py [SPECS [USERS]]        default: 10000 specs of 1000 users

One commit brings all the specs in, then single writes follow. Medians in milliseconds, in one process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from reconciler.shell.embedded_repo import ensure
from reconciler.shell.source import GitSource
from webapi.store import SpecStore

ROUNDS = 50


def timed(work: Callable[[], object]) -> float:
    """Give how long `work` takes, in milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def spec(suffix: str, seed: int = 0) -> bytes:
    """Give a spec's text."""
    return f"model_id: {suffix}\nmodel_source: $HOME/common/hf/demo\nengine_kwargs:\n  seed: {seed}\n".encode()


def fill(repository: Path, specs: int, users: int) -> None:
    """Commit all specs at once, the fast way."""
    stream = [b"commit refs/heads/main\ncommitter Bench <bench@localhost> 1767700000 +0000\ndata 4\nfill\n"]
    stream.append(b"from refs/heads/main^0\n")
    for number in range(specs):
        content = spec(f"m{number}")
        stream.append(b"M 100644 inline users/u%d/m%d.yaml\ndata %d\n" % (number % users, number, len(content)))
        stream.append(content)
    subprocess.run(
        ["git", "-C", str(repository), "fast-import", "--quiet"], input=b"".join([*stream, b"done\n"]), check=True
    )


def update(store: SpecStore, number: int, users: int) -> None:
    """Change one spec, as a PATCH does."""
    path, content = f"users/u{number % users}/m{number}.yaml", spec(f"m{number}", seed=1)
    store.write(path, lambda _before: content, author="bench", subject="Update")


def main(specs: int = 10_000, users: int = 1_000) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        repository, template = Path(folder, "specs.git"), Path(folder, "template")
        template.mkdir()
        (template / "README.md").write_text("bench\n")
        ensure(repository, template)
        fill(repository, specs, users)
        source = GitSource(str(repository), home=Path(folder))
        store = SpecStore(source)
        reader = GitSource(str(repository), home=Path(folder))
        first = timed(lambda: reader.read(None))
        writes, news, quiet = [], [], []
        for number in range(ROUNDS):
            writes.append(timed(partial(update, store, number, users)))
            news.append(timed(lambda: reader.read(None)))
            quiet.append(timed(lambda: reader.read(None)))
    print(f"{specs} specs of {users} users, {ROUNDS} rounds")
    print("| what | median |")
    print("| --- | --- |")
    for what, figure in (
        ("first read of everything", first),
        ("one write (commit, synced to disk)", statistics.median(writes)),
        ("read of one new commit", statistics.median(news)),
        ("read where nothing is new", statistics.median(quiet)),
    ):
        print(f"| {what} | {figure:.0f} ms |")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
