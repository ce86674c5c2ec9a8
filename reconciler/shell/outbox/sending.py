"""Sending one request, within one time limit for all of it, and never to where it must not lead.

Redirects are not followed, proxies of the environment are not used, bodies are neither decompressed nor read beyond
`MOST_READ` bytes. The address is checked where the connection is made, so that no name can lead elsewhere between a
check and its use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp
from yarl import URL

from reconciler.core.delivery import Letter, Reply
from reconciler.shell.outbox.destination import Destination, Request, Unready

MOST_READ = 16 * 1024
DRAIN_S = 1.0
"""How long the rest of a good answer is read, to use the connection again."""

_KEPT = ("retry-after", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit-remaining", "ratelimit-reset")
_SECRET = ("Authorization", "PRIVATE-TOKEN")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """The destination's name leads into a private network, and the configuration does not allow that."""


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet, also one that is wrapped in an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class Sender:
    """Sends to one destination. To be made and used within one event loop."""

    def __init__(self, destination: Destination) -> None:
        """Prepare. Raises Unready where its certificates cannot be read."""
        self._destination = destination
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=_trust(destination),
                socket_factory=None if destination.allow_private else _public_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept-Encoding",),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def send(self, letter: Letter, request: Request, limit_s: float) -> Reply:
        """Send a request. What goes wrong is a reply without a status, in words that hold no secret."""
        status = 0
        headers: dict[str, str] = {}
        body = b""
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.post(
                    URL(request.url, encoded=True), data=request.body, headers=request.headers, allow_redirects=False
                ) as answer,
            ):
                status, headers = answer.status, _kept(answer.headers)
                body = await _beginning(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if not status:
                is_late = isinstance(error, TimeoutError)
                return Reply(None, f"no answer within {limit_s:g} s" if is_late else _words(error))
        reply = self._destination.reply(letter, status, headers, body)
        return replace(reply, said=_without_secrets(reply.said, request))

    async def close(self) -> None:
        """Let go of its connections."""
        await self._session.close()


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Read what matters of an answer's body: of a good one nothing, but its connection is worth a moment."""
    is_good = 200 <= answer.status < 300
    try:
        async with asyncio.timeout(DRAIN_S if is_good else None):
            found = b""
            while len(found) < MOST_READ and (some := await answer.content.read(MOST_READ - len(found))):
                found += some
    except (TimeoutError, aiohttp.ClientError):
        if not is_good:
            raise
        return b""
    return b"" if is_good else found


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name][:100] for name in _KEPT if name in headers}


def _without_secrets(said: str, request: Request) -> str:
    """Take out what an answer repeats of the token that it was asked with."""
    for name in _SECRET:
        token = request.headers.get(name, "").rpartition(" ")[2]
        said = said.replace(token, "***") if token else said
    return said


def _trust(destination: Destination) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=destination.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Unready(f"ca_file of '{destination.name}' cannot be read: {type(error).__name__}") from None


def _public_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make the socket for one address that a name leads to. Raises AddressRefused."""
    family, kind, protocol, _, where = address
    if not is_public(str(where[0])):
        raise AddressRefused("it leads to a private address, and allow_private is not set")
    return socket.socket(family=family, type=kind, proto=protocol)


def _words(error: Exception) -> str:  # noqa: PLR0911  one return a kind of error
    """Say what went wrong without an address: what stands in a URL may be a secret."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not one that is trusted"
        case aiohttp.ClientConnectorDNSError():
            return "its name is not known"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, AddressRefused):
            return str(error.os_error)
        case aiohttp.ClientSSLError():
            return "no TLS connection could be made"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return f"no connection: {os.strerror(number) if number else type(error.os_error).__name__}"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "it closed the connection without an answer"
        case _:
            return f"no answer that can be read: {type(error).__name__}"
