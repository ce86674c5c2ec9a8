"""How long one pass takes by the number of models: real git, a real SQLite ledger, real notes, Serve in memory.

    .venv/bin/python bench/pass_time.py [MODELS ...] [--profile]        default: 1 100 1000 10000

Everything runs before the measurement begins. Three kinds of pass: nothing new; one file changed by a push, up to the
moment in which Serve is told, and to its end with the verdicts published as a git note. Medians in milliseconds of
wall clock and, in brackets, of CPU time of this process (git's processes count to the former alone). What Ray Serve
itself takes comes on top: `bench/push_to_serve.py` has it.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spec_repo import spec

from reconciler.core.entities import App, Located
from reconciler.loop import Reconciler, Rules
from reconciler.shell.embedded_repo import ensure
from reconciler.shell.ledger import SqlLedger, open_ledger
from reconciler.shell.notes import GitNotes
from reconciler.shell.source import GitSource
from reconciler.spec import HubSource, Limits, LocalSource
from reconciler.testing import MemoryFront, MemoryRuntime

ROUNDS = 20
SIZES = (1, 100, 1_000, 10_000)


class Folders:
    """Every folder is there: what looking at one costs is paid once a model, not once a pass."""

    def locate(self, source: LocalSource | HubSource, owner: str) -> Located:
        """Find it."""
        return Located("/private/hf/demo")


class Serve(MemoryRuntime):
    """Serve in memory that notes when it was told."""

    told_at = 0.0

    def apply(self, app: App) -> None:
        """Note the time."""
        self.told_at = time.perf_counter()
        super().apply(app)


def fill(repository: Path, models: int) -> None:
    """Commit all specs at once."""
    stream = [b"commit refs/heads/main\ncommitter Bench <bench@localhost> 1767700000 +0000\ndata 4\nfill\n"]
    stream.append(b"from refs/heads/main^0\n")
    for number in range(models):
        content = spec(f"m{number}")
        stream.append(
            b"M 100644 inline users/u%d/m%d.yaml\ndata %d\n%s\n" % (number % 100, number, len(content), content)
        )
    _import(repository, stream)


def push(repository: Path, number: int, replicas: int) -> None:
    """Change one spec, as a push does."""
    content = spec(f"m{number}") + b"num_replicas: %d\n" % replicas
    at = int(time.time())
    _import(
        repository,
        [
            b"commit refs/heads/main\ncommitter Bench <bench@localhost> %d +0000\ndata 4\npush\n" % at,
            b"from refs/heads/main^0\n",
            b"M 100644 inline users/u%d/m%d.yaml\ndata %d\n%s\n" % (number % 100, number, len(content), content),
        ],
    )


def _import(repository: Path, stream: list[bytes]) -> None:
    command = ["git", "-C", str(repository), "fast-import", "--quiet"]
    subprocess.run(command, input=b"".join([*stream, b"done\n"]), check=True)


def measure(models: int, *, profiled: bool) -> list[tuple[float, float]]:
    """Give the three medians, each as seconds of wall clock and of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        home, template = Path(folder), Path(folder, "template")
        template.mkdir()
        (template / "README.md").write_text("bench\n")
        repository = home / "specs.git"
        ensure(repository, template)
        fill(repository, models)
        now = [datetime.now(UTC)]
        runtime = Serve(total_gpus=10 * models + 10)
        engine = open_ledger(f"sqlite:///{home / 'ledger.sqlite'}", 60)
        loop = Reconciler(
            GitSource(str(repository), home=home), Folders(), runtime, MemoryFront(), SqlLedger(engine),
            Rules(Limits(max_replicas=64, max_gpus_per_replica=64), (15,), "bench"),
            lambda: now[0], notes=GitNotes(str(repository), home=home),
        )  # fmt: skip

        def settle() -> None:
            for _ in range(4):
                loop.reconcile_once()
                runtime.step()
                runtime.step()
                now[0] += timedelta(seconds=1)

        settle()
        quiet, told, whole = [], [], []
        profile = cProfile.Profile()
        for turn in range(ROUNDS):
            began, cpu = time.perf_counter(), time.process_time()
            if profiled:
                profile.enable()
            loop.reconcile_once()
            profile.disable()
            quiet.append((time.perf_counter() - began, time.process_time() - cpu))
            push(repository, turn % models, 2 + turn // models % 2)
            began, cpu = time.perf_counter(), time.process_time()
            if profiled:
                profile.enable()
            loop.reconcile_once()
            profile.disable()
            whole.append((time.perf_counter() - began, time.process_time() - cpu))
            assert runtime.told_at > began, "Serve was not told"
            told.append((runtime.told_at - began, 0.0))
            settle()
        engine.dispose()
        if profiled:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return [
        (statistics.median(wall), statistics.median(cpu))
        for wall, cpu in (zip(*each, strict=True) for each in (quiet, told, whole))
    ]


def main(*arguments: str) -> None:
    """Print the table."""
    sizes = [int(each) for each in arguments if each.isdecimal()] or SIZES
    print("| models | nothing new | one change: Serve is told | one change: the whole pass |")
    print("| --- | --- | --- | --- |")
    for models in sizes:
        quiet, told, whole = measure(models, profiled="--profile" in arguments)
        print(
            f"| {models} | {quiet[0] * 1000:.0f} ms ({quiet[1] * 1000:.0f}) | {told[0] * 1000:.0f} ms "
            f"| {whole[0] * 1000:.0f} ms ({whole[1] * 1000:.0f}) |",
            flush=True,
        )
    print(f"\nMedians of {ROUNDS} rounds; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
