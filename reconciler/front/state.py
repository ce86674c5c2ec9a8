"""What a front knows, as one value that is also a file: HAProxy starts from it when nobody is there to be asked."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reconciler.core.routes import Route, RoutingTable
from reconciler.front import files
from reconciler.front.slots import LAST_RESORT

log = logging.getLogger(__name__)

STATE = "state.json"

NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")
"""What may stand in a configuration, a map or a command: model ids and keys, replicas' names, commits."""

SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{1,200}\Z")
_ADDRESS = re.compile(r"(?:([0-9.]{7,15})|\[([0-9a-f:.]{2,45})\]):([1-9][0-9]{0,4})\Z")


@dataclass(frozen=True)
class Baseline:
    """Where a slot's counters stood when a model got it, in the HAProxy that `process` tells (`admin.Process`)."""

    process: str
    counters: Mapping[str, float]


@dataclass(frozen=True)
class FrontState:
    """The last table, and by model key: which slot a model has, and what its figures count from."""

    table: RoutingTable
    slots: Mapping[str, int] = field(default_factory=dict)
    baselines: Mapping[str, Baseline] = field(default_factory=dict)

    def to_json(self) -> str:
        """Give the state as text."""
        return json.dumps(
            {
                "table": json.loads(self.table.to_json()),
                "slots": dict(self.slots),
                "baselines": {
                    key: {"process": baseline.process, "counters": dict(baseline.counters)}
                    for key, baseline in self.baselines.items()
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> FrontState:
        """Read what `to_json` gave. Raises ValueError where it is anything else."""
        raw = json.loads(text)
        try:
            return cls(
                RoutingTable.from_json(json.dumps(raw["table"])),
                {str(key): int(slot) for key, slot in raw["slots"].items()},
                {str(key): _baseline(baseline) for key, baseline in raw["baselines"].items()},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a front's state: {error}") from error


def load(folder: Path) -> FrontState | None:
    """Read the state that the folder holds; None where there is none that can be used."""
    try:
        return FrontState.from_json((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used, and is not: %s", folder / STATE, error)
        return None


def save(folder: Path, state: FrontState) -> None:
    """Write the state down. Raises OSError."""
    files.write_private(folder / STATE, state.to_json())


def is_address(text: str) -> bool:
    """Say whether `text` is <IPv4>:<port> or [<IPv6>]:<port> in its usual form, as HAProxy gives it back."""
    match = _ADDRESS.match(text)
    if match is None or int(match[3]) > 65535:
        return False
    host = match[1] or match[2]
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False


def usable(table: RoutingTable) -> tuple[RoutingTable, tuple[str, ...]]:
    """Leave out of the table whatever may not stand in a configuration. Gives the rest, and what was wrong."""
    wrong = []
    routes: list[Route] = []
    ids: set[str] = set()
    keys: set[str] = set()
    replicas: set[str] = set()
    for route in table.routes:
        if not NAME.match(route.model_id) or not NAME.match(route.model_key):
            wrong.append(f"the name of a model: {route.model_id!r:.80}")
            continue
        if route.model_id in ids or route.model_key in keys:
            wrong.append(f"{route.model_id} stands there twice")
            continue
        ids.add(route.model_id)
        keys.add(route.model_key)
        targets = []
        for target in route.targets:
            if target.name == LAST_RESORT or not NAME.match(target.name) or not is_address(target.address):
                wrong.append(f"a replica of {route.model_id}: {target.name!r:.80} at {target.address!r:.80}")
            elif target.commit and not NAME.match(target.commit):
                wrong.append(f"the commit of a replica of {route.model_id}: {target.commit!r:.80}")
            elif target.name in replicas:
                wrong.append(f"the replica {target.name} stands there twice")
            else:
                replicas.add(target.name)
                targets.append(target)
        routes.append(route if len(targets) == len(route.targets) else replace(route, targets=tuple(targets)))
    secret = table.secret if SECRET.match(table.secret) else ""
    if not secret:
        wrong.append("the secret of fronts")
    if not wrong:
        return table, ()
    return RoutingTable(secret, tuple(routes)), tuple(wrong)


def _baseline(raw: Any) -> Baseline:
    return Baseline(str(raw["process"]), {str(name): float(value) for name, value in raw["counters"].items()})
