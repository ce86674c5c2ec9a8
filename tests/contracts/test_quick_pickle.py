"""Quick pickling gives what cloudpickle's own gives: found out on the modules that are sent to clusters."""

from __future__ import annotations

import concurrent.futures
import inspect
import os
from collections.abc import Callable
from typing import Any

from ray import cloudpickle
from ray.cloudpickle import cloudpickle as inside

from reconciler.core import answers, routes, wire
from reconciler.shell import engine_app, front_secret, ingress, kv_board, replica_server
from reconciler.shell.quick_pickle import finder, quick_pickling

MODULES = (wire, routes, answers, ingress, kv_board, front_secret, engine_app, replica_server)


def uses_a_submodule() -> Any:
    return concurrent.futures.ThreadPoolExecutor, os.path.join


def functions() -> list[Any]:
    found: list[Any] = [uses_a_submodule]
    for module in MODULES:
        found += [each for _, each in inspect.getmembers(module, inspect.isfunction)]
        for _, kind in inspect.getmembers(module, inspect.isclass):
            found += [each for _, each in inspect.getmembers(kind, inspect.isfunction)]
    return [each for each in found if hasattr(each, "__code__")]


def test_it_finds_the_very_submodules_that_cloudpickle_finds() -> None:
    slow: Callable[..., list[Any]] = inside._find_imported_submodules
    quick = finder()
    everything = functions()
    assert len(everything) > 50
    for function in everything:
        used = list(function.__globals__.values())
        assert quick(function.__code__, used) == slow(function.__code__, used), function.__qualname__
    assert concurrent.futures in quick(uses_a_submodule.__code__, [concurrent])


def test_modules_by_value_come_out_the_same_to_the_byte() -> None:
    for module in MODULES:
        cloudpickle.register_pickle_by_value(module)
    try:
        plain = [cloudpickle.dumps(function) for function in (ingress.Ingress, replica_server.ReplicaServer)]
        with quick_pickling():
            assert inside._find_imported_submodules is not None
            quick = [cloudpickle.dumps(function) for function in (ingress.Ingress, replica_server.ReplicaServer)]
        assert quick == plain
    finally:
        for module in MODULES:
            cloudpickle.unregister_pickle_by_value(module)


def test_cloudpickle_is_itself_again_afterwards() -> None:
    before = inside._find_imported_submodules
    with quick_pickling():
        assert inside._find_imported_submodules is not before
    assert inside._find_imported_submodules is before
