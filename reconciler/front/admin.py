"""A client of HAProxy's runtime API, over its admin socket: what it holds, what it counts, and the steps of `sync`."""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import ArgusError, Unreachable
from reconciler.front import files
from reconciler.front.slots import LAST_RESORT, backend, slot_of
from reconciler.front.sync import (
    MAPS,
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
)

_PROMPT = b"\n> "
_BATCH = 100
"""Commands sent at a time: HAProxy reads them from a buffer of its own, and nobody waits for each answer."""

_CHECKED = 4
"""The bit of `srv_check_state` that says that a server's health is checked."""


class FrontUnreachable(Unreachable):
    """HAProxy's admin socket does not answer, or not in time."""

    code = "front_unreachable"


class Refused(ArgusError):
    """HAProxy did not do as it was told. The message holds the command and HAProxy's own words."""

    code = "front_refused"


@dataclass(frozen=True)
class Process:
    """Which HAProxy answers: what it holds is forgotten when it is another one."""

    pid: int
    started: int
    """Seconds since the epoch."""

    def __str__(self) -> str:
        return f"{self.pid}@{self.started}"


class Conversation:
    """One connection to one HAProxy process: when that goes, so does this."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        """Use `Admin.talk`."""
        self._socket = connection
        self._timeout_s = timeout_s
        self._unread = b""
        self._socket.sendall(b"prompt\n")
        self._reply(time.monotonic() + timeout_s)

    def ask(self, *commands: str) -> list[str]:
        """Give HAProxy's words on each command. Raises FrontUnreachable."""
        replies: list[str] = []
        try:
            for first in range(0, len(commands), _BATCH):
                batch = commands[first : first + _BATCH]
                until = time.monotonic() + self._timeout_s
                self._socket.settimeout(self._timeout_s)
                self._socket.sendall("".join(f"{command}\n" for command in batch).encode())
                replies += [self._reply(until) for _ in batch]
        except OSError as error:
            raise FrontUnreachable(f"HAProxy does not answer: {error}") from None
        return replies

    def process(self) -> Process:
        """Say which process this is. Raises FrontUnreachable."""
        (text,) = self.ask("show info")
        facts = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        try:
            return Process(int(facts["Pid"]), int(facts["Start_time_sec"]))
        except (KeyError, ValueError):
            raise FrontUnreachable("HAProxy does not say which process it is") from None

    def held(self) -> Held:
        """Read what HAProxy holds. Raises FrontUnreachable."""
        states, *maps = self.ask("show servers state", *(f"show map {name}" for name in MAPS))
        return Held(
            {name: _entries(text) for name, text in zip(MAPS, maps, strict=True)},
            dict(_servers(states)),
        )

    def stats(self) -> list[Mapping[str, str]]:
        """Read the counters of frontends, backends and servers, as HAProxy names them. Raises FrontUnreachable."""
        (text,) = self.ask("show stat")
        return list(csv.DictReader(text.removeprefix("# ").splitlines()))

    def take(self, steps: Iterable[Step], server_options: str) -> list[str]:
        """Take the steps in order, and give what HAProxy refused without harm to the rest: servers it did not add.

        A server that cannot be deleted yet is no refusal. Raises Refused where a map cannot be changed (no step after
        it was then taken), FrontUnreachable.
        """
        refused = []
        for maps, group in _groups(steps):
            commands = [(step, command) for step in group for command in _commands(step, server_options)]
            for (step, command), words in zip(commands, self.ask(*(told for _, told in commands)), strict=True):
                if words in _EXPECTED or isinstance(step, DeleteServer):
                    continue
                trouble = f"{command.split(' check ')[0]}: {words}"
                if maps:
                    raise Refused(trouble)
                refused.append(trouble)
        return refused

    def _reply(self, until: float) -> str:
        while _PROMPT not in self._unread:
            left = until - time.monotonic()
            if left <= 0:
                raise FrontUnreachable(f"HAProxy does not answer within {self._timeout_s:g} s")
            self._socket.settimeout(left)
            read = self._socket.recv(1 << 16)
            if not read:
                raise FrontUnreachable("HAProxy closed the connection")
            self._unread += read
        reply, _, self._unread = self._unread.partition(_PROMPT)
        return reply.decode(errors="replace").strip("\n")


class Admin:
    """The admin socket in a front's folder."""

    def __init__(self, folder: Path, timeout_s: float = 5.0) -> None:
        """No answer is waited for longer than `timeout_s` seconds."""
        self._folder = folder
        self._timeout_s = timeout_s

    @contextmanager
    def talk(self) -> Iterator[Conversation]:
        """Connect. Raises FrontUnreachable."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout_s)
            try:
                with files.short(self._folder) as folder:
                    connection.connect(f"{folder}/{files.ADMIN_SOCKET}")
                conversation = Conversation(connection, self._timeout_s)
            except OSError as error:
                raise FrontUnreachable(f"HAProxy does not answer: {error}") from None
            yield conversation


_EXPECTED = frozenset({"", "New server registered.", "Server deleted."})


def _groups(steps: Iterable[Step]) -> Iterator[tuple[bool, Sequence[Step]]]:
    """Cut the steps where map entries and servers take turns: what follows a refused map entry must not be sent."""
    group: list[Step] = []
    maps = False
    for step in steps:
        is_map = isinstance(step, PutEntry | DropEntry)
        if group and is_map != maps:
            yield maps, group
            group = []
        maps = is_map
        group.append(step)
    if group:
        yield maps, group


def _commands(step: Step, server_options: str) -> tuple[str, ...]:
    match step:
        case PutEntry(name, key, value, is_new):
            return (f"{'add' if is_new else 'set'} map {name} {key} {value}",)
        case DropEntry(name, key):
            return (f"del map {name} {key}",)
        case AddServer(place, address):
            return (f"add server {_name(place)} {address} {server_options}",)
        case EnableServer(place):
            return (f"enable health {_name(place)}", f"set server {_name(place)} state ready")
        case RetireServer(place):
            return (f"set server {_name(place)} state maint",)
        case DeleteServer(place):
            return (f"del server {_name(place)}",)


def _name(place: Place) -> str:
    return f"{backend(place.slot)}/{place.name}"


def _entries(text: str) -> dict[str, str]:
    """Read a map's lines, `<where> <key> <value>`. A key that stands there twice has no value that is right."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(" ")
        key, _, value = rest.partition(" ")
        entries[key] = value if entries.get(key, value) == value else ""
    return entries


def _servers(text: str) -> Iterator[tuple[Place, Server]]:
    lines = [line for line in text.splitlines() if line and line != "1"]
    columns = lines[0].removeprefix("# ").split() if lines else []
    for line in lines[1:]:
        row = dict(zip(columns, line.split(" "), strict=False))
        slot = slot_of(row["be_name"])
        if slot is None or row["srv_name"] == LAST_RESORT:
            continue
        host = row["srv_fqdn"] if row["srv_fqdn"] != "-" else row["srv_addr"]
        address = f"[{host}]:{row['srv_port']}" if ":" in host else f"{host}:{row['srv_port']}"
        ready = row["srv_admin_state"] == "0" and int(row["srv_check_state"]) & _CHECKED != 0
        yield Place(slot, row["srv_name"]), Server(address, ready)
