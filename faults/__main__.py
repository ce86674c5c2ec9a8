"""Play acts and print what users saw of each. Exit status 1 where one of them missed its expectation."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from faults import changes, crashes, report
from faults.report import Outcome
from faults.stage import Act, stage

ACTS: tuple[Act, ...] = (*changes.ACTS, *crashes.ACTS)


def main() -> int:
    """Play the acts that were asked for, in their order."""
    parser = argparse.ArgumentParser(prog="python -m faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help="acts, in this order; all where none is named")
    parser.add_argument("--clients", type=int, default=8, help="clients that stream from A all the time (8)")
    parser.add_argument("--list", action="store_true", help="say which acts there are")
    given = parser.parse_args()
    known = {act.name: act for act in ACTS}
    if given.list:
        print("\n".join(f"{act.name:16} {act.what}" for act in ACTS))
        return 0
    if unknown := set(given.names) - known.keys():
        parser.error(f"no such act: {', '.join(sorted(unknown))}; --list shows them")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), given.clients) as set_up:
        print(report.HEAD)
        for name in given.names or known:
            outcomes.append(set_up.play(known[name]))
            print(outcomes[-1].row, flush=True)
    return 1 if any(one.problems for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
