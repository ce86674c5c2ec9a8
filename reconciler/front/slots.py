"""Slots: HAProxy's backends are made at its start, and each model that answers is given one of them. Pure.

A backend cannot be added to a running HAProxy, a server can: so there is a pool of empty backends `m0`, `m1`, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from reconciler.core.routes import RoutingTable

LAST_RESORT = ".lost"
"""The server that every slot has for the moment when all others are down: it says so. No replica's name."""


def backend(slot: int) -> str:
    """Give a slot's name in HAProxy."""
    return f"m{slot}"


def slot_of(backend: str) -> int | None:
    """Read a slot's name; None where it is another backend's."""
    digits = backend[1:]
    return int(digits) if backend.startswith("m") and digits.isascii() and digits.isdigit() else None


def assign(before: Mapping[str, int], table: RoutingTable, occupied: Set[int], size: int) -> dict[str, int]:
    """Give each model of the table that has replicas a slot, by model key.

    A model keeps its slot as long as it is in the table; one without replicas gives it up only where slots are short.
    Who comes late to a full pool gets none: ask again when something has changed.

    Args:
        before: The slots so far.
        table: What should be.
        occupied: Slots in which HAProxy still holds servers, whoever's. None is given to another model.
        size: How many slots there are.
    """
    answering = {route.model_key: bool(route.targets) for route in table.routes}
    slots: dict[str, int] = {}
    taken: set[int] = set()
    for key, slot in before.items():
        if key in answering and 0 <= slot < size and slot not in taken:
            slots[key] = slot
            taken.add(slot)
    free = [slot for slot in range(size) if slot not in taken and slot not in occupied]
    newcomers = [key for key, answers in answering.items() if answers and key not in slots]
    if len(newcomers) > len(free):
        spare = [key for key in slots if not answering[key] and slots[key] not in occupied]
        free += sorted(slots.pop(key) for key in spare[: len(newcomers) - len(free)])
    slots.update(zip(newcomers, free, strict=False))
    return slots
