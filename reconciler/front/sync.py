"""From what HAProxy holds to what it should hold, as an ordered list of steps. Pure.

The order keeps three promises at every moment between two steps: a name never leads to another model's server, a
replica that stays is never without requests because of one that goes, and an answer carries its commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.core.routes import RoutingTable
from reconciler.front.slots import backend

MODELS_MAP = "models.map"
"""model_id -> `<backend>/<model_key>`."""

COMMITS_MAP = "commits.map"
"""A replica's name -> the commit that its answers are stamped with."""

SECRET_MAP = "secret.map"  # noqa: S105  a file's name
"""`SECRET_KEY` -> the secret that replicas know fronts by."""

SECRET_KEY = "front"  # noqa: S105  a key in a map

MAPS = (MODELS_MAP, COMMITS_MAP, SECRET_MAP)


@dataclass(frozen=True, order=True)
class Place:
    """A server of a slot. Its name is the replica's."""

    slot: int
    name: str


@dataclass(frozen=True)
class Server:
    """A server as HAProxy holds it. One that does not take requests is in maintenance."""

    address: str
    takes_requests: bool = True


@dataclass(frozen=True)
class Held:
    """What HAProxy holds: its maps by file name, and its servers."""

    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    servers: Mapping[Place, Server] = field(default_factory=dict)

    def occupied(self) -> set[int]:
        """Give the slots that hold servers."""
        return {place.slot for place in self.servers}


@dataclass(frozen=True)
class Wanted:
    """What HAProxy should hold; servers by address."""

    maps: Mapping[str, Mapping[str, str]]
    servers: Mapping[Place, str]


@dataclass(frozen=True)
class PutEntry:
    """Put a value into a map; `is_new` says that the key is not there yet."""

    map: str
    key: str
    value: str
    is_new: bool


@dataclass(frozen=True)
class DropEntry:
    """Take a key out of a map."""

    map: str
    key: str


@dataclass(frozen=True)
class AddServer:
    """Add a server; it takes no requests until it is enabled."""

    place: Place
    address: str


@dataclass(frozen=True)
class EnableServer:
    """Let a server take requests, and check its health."""

    place: Place


@dataclass(frozen=True)
class RetireServer:
    """Give a server nothing new; its streams go on."""

    place: Place


@dataclass(frozen=True)
class DeleteServer:
    """Delete a retired server. HAProxy refuses while it has connections: that is no error, but tried again."""

    place: Place


Step = PutEntry | DropEntry | AddServer | EnableServer | RetireServer | DeleteServer


def wanted(table: RoutingTable, slots: Mapping[str, int]) -> Wanted:
    """Say what HAProxy should hold. A model without a slot or without replicas is the desk's."""
    models, commits, servers = {}, {}, {}
    for route in table.routes:
        slot = slots.get(route.model_key)
        if slot is None or not route.targets:
            continue
        models[route.model_id] = f"{backend(slot)}/{route.model_key}"
        for target in route.targets:
            servers[Place(slot, target.name)] = target.address
            if target.commit:
                commits[target.name] = target.commit
    secret = {SECRET_KEY: table.secret} if table.secret else {}
    return Wanted({MODELS_MAP: models, COMMITS_MAP: commits, SECRET_MAP: secret}, servers)


def steps(held: Held, want: Wanted) -> Iterator[Step]:
    """Give the steps from `held` to `want`, to be taken in this order.

    A server whose address is wrong is deleted first and added by a later round, when it is gone.
    """
    models, led = want.maps[MODELS_MAP], held.maps.get(MODELS_MAP, {})
    yield from (DropEntry(MODELS_MAP, name) for name, lead in led.items() if models.get(name) != lead)
    yield from _puts(SECRET_MAP, held, want)
    yield from _puts(COMMITS_MAP, held, want)
    for place, address in want.servers.items():
        server = held.servers.get(place)
        if server is None:
            yield AddServer(place, address)
            yield EnableServer(place)
        elif server.address == address and not server.takes_requests:
            yield EnableServer(place)
    going = [place for place, server in held.servers.items() if want.servers.get(place) != server.address]
    yield from (RetireServer(place) for place in going if held.servers[place].takes_requests)
    yield from (PutEntry(MODELS_MAP, name, lead, is_new=True) for name, lead in models.items() if led.get(name) != lead)
    yield from (DeleteServer(place) for place in going)
    stamped = {*want.maps[COMMITS_MAP], *(place.name for place in going)}
    yield from (DropEntry(COMMITS_MAP, name) for name in held.maps.get(COMMITS_MAP, {}) if name not in stamped)
    yield from (DropEntry(SECRET_MAP, key) for key in held.maps.get(SECRET_MAP, {}) if key not in want.maps[SECRET_MAP])


def _puts(name: str, held: Held, want: Wanted) -> Iterator[Step]:
    there = held.maps.get(name, {})
    for key, value in want.maps[name].items():
        if there.get(key) != value:
            yield PutEntry(name, key, value, is_new=key not in there)
