"""Where requests go: the table that fronts work from. Values only.

Sent to the cluster by value and kept as JSON, so it imports nothing of Argus.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Unavailable:
    """What a model's name is answered with while no replica of it takes requests: 503, `code` and why, for people."""

    code: str
    reason: str
    retry_after_s: int


@dataclass(frozen=True)
class Name:
    """A public model name: whose it is, and the commit behind each version of its engine that may answer.

    `created` is in whole seconds since the epoch. `commits` maps `Workload.version` to a commit SHA.
    """

    model_id: str
    model_key: str
    owner: str
    created: int
    commits: Mapping[str, str]
    unavailable: Unavailable


@dataclass(frozen=True)
class Replica:
    """A replica that takes requests: it has answered one of its own. `name` is unique and of `[A-Za-z0-9_-]`."""

    name: str
    model_key: str
    version: str
    address: str
    """host:port of its own HTTP server."""


@dataclass(frozen=True)
class Target:
    """A replica as a front sees it: where it is, and the commit that its answers are stamped with."""

    name: str
    address: str
    commit: str


@dataclass(frozen=True)
class Route:
    """One public name and the replicas that answer under it, in the order of their names."""

    model_id: str
    model_key: str
    owner: str
    created: int
    unavailable: Unavailable
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class RoutingTable:
    """Every name that a front knows, in order. `secret` is what replicas know fronts by."""

    secret: str
    routes: tuple[Route, ...]

    def named(self, model_id: str) -> Route | None:
        """Find a name; None where there is no such model."""
        return self._by_id().get(model_id)

    def _by_id(self) -> dict[str, Route]:
        known: dict[str, Route] | None = self.__dict__.get("_index")
        if known is None:
            known = {route.model_id: route for route in self.routes}
            object.__setattr__(self, "_index", known)
        return known

    def to_json(self) -> str:
        """Give the table as text. Equal tables give equal texts."""
        return json.dumps(
            {"secret": self.secret, "routes": [asdict(route) for route in self.routes]},
            separators=(",", ":"),
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> RoutingTable:
        """Read what `to_json` gave. Raises ValueError where it is anything else."""
        try:
            raw = json.loads(text)
            routes = [
                Route(
                    **{
                        **route,
                        "unavailable": Unavailable(**route["unavailable"]),
                        "targets": tuple(Target(**target) for target in route["targets"]),
                    }
                )
                for route in raw["routes"]
            ]
            return cls(str(raw["secret"]), tuple(routes))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a routing table: {error}") from error


def routing_table(secret: str, names: Sequence[Name], replicas: Sequence[Replica]) -> RoutingTable:
    """Join the names that there are with the replicas that take requests. A replica without a name is left out."""
    by_key: dict[str, list[Replica]] = {}
    for replica in sorted(replicas, key=lambda replica: replica.name):
        by_key.setdefault(replica.model_key, []).append(replica)
    routes = [
        Route(
            model_id=name.model_id,
            model_key=name.model_key,
            owner=name.owner,
            created=name.created,
            unavailable=name.unavailable,
            targets=tuple(
                Target(replica.name, replica.address, name.commits.get(replica.version, ""))
                for replica in by_key.get(name.model_key, ())
            ),
        )
        for name in sorted(names, key=lambda name: name.model_id)
    ]
    return RoutingTable(secret, tuple(routes))
