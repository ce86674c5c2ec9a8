"""Run by every Python process that a faulty platform starts: this folder is on its PYTHONPATH (`faults.house`).

Python imports `sitecustomize` before anything else, and so the suite gets into the API and the reconciler without a
hook in either: a clock that can be moved, and a reconciler that dies at a chosen point.
"""

import os
import sys

_role = sys.orig_argv[3] if sys.orig_argv[1:3] == ["-m", "argus"] and len(sys.orig_argv) > 3 else ""

if _role in {"api", "reconciler"} and "FAULTS_CLOCK" in os.environ and "LD_PRELOAD" not in os.environ:
    again = {**os.environ, "LD_PRELOAD": os.environ["FAULTS_CLOCK"]}
    os.execve(sys.executable, sys.orig_argv, again)  # noqa: S606  itself, with a library before all others

if _role == "reconciler":
    from faults import saboteur

    saboteur.install(os.environ["FAULTS_SWITCHES"])
