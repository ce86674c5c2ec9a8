"""The board on which the routing table hangs for Ray's front: two entries in Ray's own key-value store.

The store lives and dies with Ray's GCS, as the replicas do. `KvReader` goes to the cluster by value, with the ingress.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ray.exceptions import RayError
from ray.experimental import internal_kv

from reconciler.core.routes import RoutingTable
from reconciler.errors import RuntimeUnreachable

NAMESPACE = b"argus"
DOCUMENT = b"routes"
DIGEST = b"routes-digest"
"""What readers look at often: a table of 1000 names is 500 KB, its digest 64 bytes."""

TIMEOUT_S = 5.0


class KvBoard:
    """Puts the routing table up. Needs a connection to Ray."""

    def __init__(self, confirm: Callable[[], None] = lambda: None) -> None:
        """Publish only after `confirm`, which raises NotLeader or LedgerUnreachable: Ray's store knows no leases."""
        self._confirm = confirm

    def publish(self, table: RoutingTable) -> None:
        """Put up a table in place of the last one. Raises RuntimeUnreachable, and what `confirm` raises."""
        document = table.to_json().encode()
        self._confirm()
        try:
            _put(DOCUMENT, document)
            _put(DIGEST, _digest(document))
        except (RayError, OSError) as error:
            raise RuntimeUnreachable(f"Ray's key-value store does not take the routing table: {error}") from error


class KvReader:
    """Reads the routing table, wherever Ray runs. One thread at a time."""

    def __init__(self) -> None:
        """Begin without a table."""
        self._digest: bytes | None = None

    def news(self) -> RoutingTable | None:
        """Give the table where it is another than the last one that was given, else None.

        Raises RayError, OSError or ValueError where the store does not answer or holds something else.
        """
        digest = _get(DIGEST)
        if digest is None or digest == self._digest:
            return None
        document = _get(DOCUMENT)
        if document is None or _digest(document) != digest:
            return None  # between the two writes of a newer table: the next look finds both
        table = RoutingTable.from_json(document.decode())
        self._digest = digest
        return table


def _digest(document: bytes) -> bytes:
    return hashlib.sha256(document).hexdigest().encode()


def _put(key: bytes, value: bytes) -> None:
    internal_kv.internal_kv_get_gcs_client().internal_kv_put(key, value, True, namespace=NAMESPACE, timeout=TIMEOUT_S)


def _get(key: bytes) -> bytes | None:
    client = internal_kv.internal_kv_get_gcs_client()
    found: bytes | None = client.internal_kv_get(key, namespace=NAMESPACE, timeout=TIMEOUT_S)
    return found
