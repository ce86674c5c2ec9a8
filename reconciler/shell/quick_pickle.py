"""Sending our own modules to the cluster by value, in a tenth of the time that cloudpickle takes for it.

For each function that it sends, cloudpickle goes through all imported modules, some thousands beside vLLM, to find
submodules that the function may use. Serve has each deployment pickled several times at each apply: with two models
that was half a second of CPU, and it grows with their number. The same search is made here once for each package. It
gives the same modules; where Ray's cloudpickle has changed, nothing is done, and it takes as long as it takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

from ray.cloudpickle import cloudpickle

_NAME = "_find_imported_submodules"


@contextmanager
def quick_pickling() -> Iterator[None]:
    """Pickle quickly inside. Used by one thread at a time; what others pickle meanwhile comes out the same."""
    slow = getattr(cloudpickle, _NAME, None)
    if slow is None:
        yield
        return
    setattr(cloudpickle, _NAME, finder())
    try:
        yield
    finally:
        setattr(cloudpickle, _NAME, slow)


def finder() -> Callable[[CodeType, Iterable[Any]], list[ModuleType]]:
    """Give a function that finds what cloudpickle's own finds, and remembers what it has looked through."""
    below: dict[tuple[str, int], list[tuple[frozenset[str], str]]] = {}

    def find(code: CodeType, top_level_dependencies: Iterable[Any]) -> list[ModuleType]:
        found = []
        for each in top_level_dependencies:
            if isinstance(each, ModuleType) and getattr(each, "__package__", None):
                # Imports add modules and hardly ever take any away: another number of them is another look.
                key = (f"{each.__name__}.", len(sys.modules))
                if key not in below:
                    below[key] = _below(key[0])
                names = set(code.co_names)
                found += [sys.modules[name] for tokens, name in below[key] if tokens <= names and name in sys.modules]
        return found

    return find


def _below(prefix: str) -> list[tuple[frozenset[str], str]]:
    """Give the modules below a package, each with the words of its name."""
    return [(frozenset(name[len(prefix) :].split(".")), name) for name in list(sys.modules) if name.startswith(prefix)]
