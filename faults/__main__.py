"""Play acts and print what users saw of each. Exit status 1 where one of them missed its expectation."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults import changes, crashes, damage, naive, report, takeover
from faults.report import Expectation, Outcome
from faults.stage import Act, stage

GROUPS: dict[str, tuple[Act, ...]] = {
    "changes": changes.ACTS,
    "processes": (*crashes.PROCESSES, *takeover.ACTS),
    "state": damage.ACTS,
    "models": (
        *crashes.MODELS,
        changes.scale("a", 1, "scale A itself down to 1", Expectation(heal_s=60)),
        *crashes.ALONE,
    ),
    "heads": (*damage.STOPPED, *crashes.HEADS),
}
"""In the order in which they are played: what costs least first, and what takes every model down last."""

NAIVE = "naive"
"""The name of Ray's documented way, which is played on a platform of its own, and whole."""

ACTS = tuple(act for group in GROUPS.values() for act in group)


def main() -> int:
    """Play the acts that were asked for, in their order."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the platform is taken down too
    deadline = time.monotonic() + given.budget * 60
    outcomes: list[Outcome] = []
    print(report.HEAD, flush=True)
    for one in _all(given, deadline):
        outcomes.append(one)
        print(one.row, flush=True)
        if given.raw:
            with given.raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps(one.record) + "\n")
    if given.output:
        _write(given.output, "faults" if given.front == "haproxy" else "faults-ray", report.table(outcomes))
    missed = [one for one in outcomes if one.problems]
    skipped = sum(one.skipped is not None for one in outcomes)
    print(f"\n{len(outcomes) - len(missed) - skipped} as promised, {len(missed)} not, {skipped} not played")
    return 1 if missed else 0


def _all(given: argparse.Namespace, deadline: float) -> Iterator[Outcome]:
    acts = _chosen(given.names, given.front)
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        if acts:
            folder = Path(scratch, "argus")
            folder.mkdir()
            yield from _played(acts, folder, given, deadline)
        if NAIVE in given.names or not given.names:
            yield from naive.play(Path(scratch, "naive"), given.clients, deadline)


def _played(acts: Sequence[Act], folder: Path, given: argparse.Namespace, deadline: float) -> Iterator[Outcome]:
    with stage(
        folder,
        front=given.front,
        clients=given.clients,
        writers=given.writers,
        every_s=given.write_every,
        logs=given.logs,
    ) as set_up:
        for act in acts:
            if time.monotonic() > deadline:
                yield Outcome(act.name, act.what, problems=("the budget was spent before its turn",))
            else:
                yield set_up.play(act)


def _chosen(names: Sequence[str], front: str) -> list[Act]:
    """Give the acts of these names and groups, in the order of the list; all where none is named."""
    wanted = {act.name for name in names for act in GROUPS.get(name, ())} | set(names)
    return [act for act in ACTS if (not names or act.name in wanted) and front in act.fronts]


def _write(output: Path, marker: str, table: str) -> None:
    """Put the table into its place in a document, or into a file of its own."""
    text = (
        output.read_text(encoding="utf-8") if output.exists() else f"<!-- {marker}:begin -->\n<!-- {marker}:end -->\n"
    )
    output.write_text(report.placed(text, marker, table), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="acts and groups of acts; all where none is named")
    parser.add_argument("--list", action="store_true", help="say which acts there are")
    parser.add_argument("--front", choices=["haproxy", "ray"], default="haproxy", help="who takes users' requests")
    parser.add_argument("--clients", type=int, default=8, help="clients that stream from A all the time (8)")
    parser.add_argument("--writers", type=int, default=200, help="clients that write through the API (200)")
    parser.add_argument(
        "--write-every", type=float, default=120, metavar="S", help="how often each of them writes (120 s)"
    )
    parser.add_argument(
        "--budget", type=float, default=75, metavar="MIN", help="no act begins after so many minutes (75)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="put the table between the file's faults markers")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="append a line of JSON for each act")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the platform's logs there")
    given = parser.parse_args()
    if given.list:
        for group, acts in GROUPS.items():
            print(f"{group}:")
            for act in acts:
                only = "" if len(act.fronts) > 1 else f" (--front {act.fronts[0]})"
                print(f"  {act.name:24} {act.what}{only}")
        print(f"{NAIVE}:")
        for name, what, _ in naive.ACTS:
            print(f"  {name:24} {what}")
        sys.exit(0)
    known = {NAIVE, *GROUPS, *(act.name for act in ACTS)}
    if unknown := set(given.names) - known:
        parser.error(f"no such act: {', '.join(sorted(unknown))}; --list shows them")
    return given


if __name__ == "__main__":
    sys.exit(main())
