"""From any state of HAProxy to the desired one, step by step, on a model of HAProxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.routes import Route, RoutingTable, Target, Unavailable
from reconciler.front.slots import assign, backend, slot_of
from reconciler.front.sync import (
    COMMITS_MAP,
    MODELS_MAP,
    SECRET_MAP,
    AddServer,
    DeleteServer,
    DropEntry,
    EnableServer,
    Held,
    Place,
    PutEntry,
    RetireServer,
    Server,
    Step,
    steps,
    wanted,
)

SIZE = 4
WHY = Unavailable("model_loading", "is still loading", 10)

# Replicas belong to one model for life, as names of Serve's do: "a1" is never one of b's.
MODELS = "abcdef"
tables = st.dictionaries(
    st.sampled_from(MODELS), st.dictionaries(st.integers(1, 3), st.sampled_from(["c1", "c2", ""]), max_size=3)
).flatmap(
    lambda models: st.builds(
        lambda secret: RoutingTable(secret, tuple(_route(key, replicas) for key, replicas in sorted(models.items()))),
        st.sampled_from(["s1", "s2"]),
    )
)


def _route(key: str, replicas: Mapping[int, str]) -> Route:
    targets = tuple(Target(f"{key}{n}", f"10.0.0.{n}:{ord(key)}", commit) for n, commit in sorted(replicas.items()))
    return Route(f"model-{key}", f"key-{key}", "alice", 1, WHY, targets)


@dataclass
class Haproxy:
    """HAProxy as far as `sync` knows it. It refuses what the real one refuses, by an assertion."""

    maps: dict[str, dict[str, str]] = field(default_factory=lambda: {MODELS_MAP: {}, COMMITS_MAP: {}, SECRET_MAP: {}})
    servers: dict[Place, Server] = field(default_factory=dict)
    busy: set[Place] = field(default_factory=set)

    def held(self) -> Held:
        return Held({name: dict(entries) for name, entries in self.maps.items()}, dict(self.servers))

    def take(self, step: Step) -> None:
        match step:
            case PutEntry(name, key, value, is_new):
                assert is_new == (key not in self.maps[name]), "add map makes a second entry, set map needs a first"
                self.maps[name][key] = value
            case DropEntry(name, key):
                del self.maps[name][key]
            case AddServer(place, address):
                assert place not in self.servers
                self.servers[place] = Server(address, takes_requests=False)
            case EnableServer(place):
                self.servers[place] = Server(self.servers[place].address, takes_requests=True)
            case RetireServer(place):
                self.servers[place] = Server(self.servers[place].address, takes_requests=False)
            case DeleteServer(place):
                assert not self.servers[place].takes_requests
                if place not in self.busy:
                    del self.servers[place]

    def leads(self) -> dict[str, set[str]]:
        """Say which servers each name leads to."""
        return {
            name: {
                place.name
                for place, server in self.servers.items()
                if backend(place.slot) == lead.split("/")[0] and server.takes_requests
            }
            for name, lead in self.maps[MODELS_MAP].items()
        }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(tables, st.sets(st.integers(0, 11))), min_size=1, max_size=6))
def test_any_sequence_of_tables_ends_in_what_the_last_one_says(history: list[tuple[RoutingTable, set[int]]]) -> None:
    haproxy, slots = Haproxy(), dict[str, int]()
    for table, busy in history:
        haproxy.busy = {place for number, place in enumerate(sorted(haproxy.servers)) if number in busy}
        before = haproxy.leads()
        slots = assign(slots, table, haproxy.held().occupied(), SIZE)
        want = wanted(table, slots)
        stays = {
            name: servers & {place.name for place in want.servers}
            for name, servers in before.items()
            if want.maps[MODELS_MAP].get(name) == haproxy.maps[MODELS_MAP].get(name)
        }
        for step in list(steps(haproxy.held(), want)):
            haproxy.take(step)
            leads = haproxy.leads()
            for name, servers in leads.items():
                assert all(server.startswith(name.removeprefix("model-")) for server in servers), "another's server"
                assert servers >= stays.get(name, set()), "a replica that stays took no requests for a moment"
            if isinstance(step, PutEntry) and step.map == MODELS_MAP:
                assert leads[step.key], "a name led to no server"
        assert haproxy.maps[MODELS_MAP] == want.maps[MODELS_MAP]
        ready = {place: server.address for place, server in haproxy.servers.items() if server.takes_requests}
        assert ready == want.servers
        assert haproxy.servers.keys() - want.servers.keys() <= haproxy.busy, "what goes and is idle is deleted"
    haproxy.busy = set()
    for _ in range(2):
        slots = assign(slots, table, haproxy.held().occupied(), SIZE)
        want = wanted(table, slots)
        for step in list(steps(haproxy.held(), want)):
            haproxy.take(step)
    assert haproxy.maps == want.maps
    assert haproxy.servers == {place: Server(address) for place, address in want.servers.items()}
    assert list(steps(haproxy.held(), want)) == []


helds = st.builds(
    Held,
    st.fixed_dictionaries(
        {
            MODELS_MAP: st.dictionaries(
                st.sampled_from([f"model-{key}" for key in MODELS]),
                st.sampled_from(["m0/key-a", "m1/key-a", "m2/key-b", "m9/x", "", "nonsense"]),
            ),
            COMMITS_MAP: st.dictionaries(st.sampled_from(["a1", "b1", "z"]), st.sampled_from(["c1", "odd"])),
            SECRET_MAP: st.dictionaries(st.sampled_from(["front", "odd"]), st.sampled_from(["s1", "odd"])),
        }
    ),
    st.dictionaries(
        st.builds(Place, st.integers(0, SIZE - 1), st.sampled_from(["a1", "a2", "b1", "z"])),
        st.builds(Server, st.sampled_from(["10.0.0.1:97", "10.0.0.9:9"]), st.booleans()),
    ),
)


@settings(max_examples=50, deadline=None)
@given(helds, tables, st.dictionaries(st.sampled_from([f"key-{key}" for key in MODELS]), st.integers(-1, SIZE)))
def test_whatever_somebody_did_to_haproxy_is_healed(held: Held, table: RoutingTable, slots: Mapping[str, int]) -> None:
    haproxy = Haproxy({name: dict(entries) for name, entries in held.maps.items()}, dict(held.servers))
    for _ in range(3):  # the second adds what had to go first, the third moves in where that stood
        slots = assign(slots, table, haproxy.held().occupied(), SIZE)
        for step in list(steps(haproxy.held(), wanted(table, slots))):
            haproxy.take(step)
            if isinstance(step, PutEntry) and step.map == MODELS_MAP:
                mine = step.key.removeprefix("model-")
                assert all(server.startswith(mine) for server in haproxy.leads()[step.key])
    want = wanted(table, slots)
    assert haproxy.maps == want.maps
    assert haproxy.servers == {place: Server(address) for place, address in want.servers.items()}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(tables, st.sets(st.integers(0, SIZE - 1))), min_size=1, max_size=6))
def test_a_slot_is_one_models_as_long_as_it_answers_and_never_two(
    history: list[tuple[RoutingTable, set[int]]],
) -> None:
    slots: dict[str, int] = {}
    for table, occupied in history:
        answering = {route.model_key for route in table.routes if route.targets}
        before, slots = slots, assign(slots, table, occupied, SIZE)
        assert len(set(slots.values())) == len(slots) <= SIZE
        assert slots.keys() <= {route.model_key for route in table.routes}
        for key in answering & before.keys():
            assert slots[key] == before[key]
        for key in slots.keys() - before.keys():
            assert slots[key] not in occupied
        if answering - slots.keys():
            assert len(slots) + len(occupied - set(slots.values())) == SIZE, "there was room"


def test_a_model_without_replicas_makes_room_only_where_slots_are_short() -> None:
    idle, busy = _route("a", {}), [_route(key, {1: "c"}) for key in "bcde"]
    table = RoutingTable("s", (idle, *busy[:3]))
    slots = assign({"key-a": 0}, table, set(), SIZE)
    assert slots["key-a"] == 0
    table = RoutingTable("s", (idle, *busy))
    slots = assign(slots, table, set(), SIZE)
    assert slots.keys() == {route.model_key for route in busy}


def test_a_slot_is_not_given_away_while_streams_of_the_model_before_end_in_it() -> None:
    slots = assign({}, RoutingTable("s", (_route("a", {1: "c"}),)), occupied={0, 1, 2}, size=SIZE)
    assert slots == {"key-a": 3}
    assert assign({}, RoutingTable("s", (_route("a", {1: "c"}),)), occupied={0, 1, 2, 3}, size=SIZE) == {}


def test_slots_have_names_that_are_read_back() -> None:
    assert [slot_of(backend(slot)) for slot in (0, 7, 1023)] == [0, 7, 1023]
    assert [slot_of(name) for name in ("desk", "m", "mx", "m-1", "openai")] == [None] * 5
