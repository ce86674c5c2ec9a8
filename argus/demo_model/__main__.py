"""`python -m argus.demo_model TARGET`: build the demo model."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from argus.demo_model.folder import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``python -m argus.demo_model TARGET``.

    Returns 0 when the model stands, 1 when it could not be built (the reason on stderr).
    """
    parser = argparse.ArgumentParser(
        prog="python -m argus.demo_model",
        description="Build the tiny demo model as a model folder (offline, about 20 s).",
    )
    parser.add_argument("target", type=pathlib.Path, help="the folder to make")
    target: pathlib.Path = parser.parse_args(argv).target
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"demo model {time.monotonic() - start:5.1f} s: {line}", flush=True)

    try:
        build(target, say)
    except (OSError, RuntimeError) as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
