"""The secret by which replicas know a front: made once for each start of Ray, and kept in Ray's own key-value store.

The store lives and dies with Ray's GCS, as the replicas do. `front_secret` runs in replicas too, so this module is sent
to the cluster by value and imports nothing of Argus.
"""

from __future__ import annotations

import secrets

from ray.experimental import internal_kv

_NAMESPACE = b"argus"
_KEY = b"front-secret"


def ensure_front_secret() -> str:
    """Give the secret, making one where there is none. Needs a connection to Ray.

    Whoever comes second gets what the first has put there, also where both come at once.
    """
    internal_kv._internal_kv_put(_KEY, secrets.token_urlsafe(32).encode(), overwrite=False, namespace=_NAMESPACE)
    return front_secret()


def front_secret() -> str:
    """Give the secret. Needs a connection to Ray; raises RuntimeError where nobody has made one."""
    kept = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
    if not kept:
        raise RuntimeError(
            "Ray's store holds no secret of the front's: the reconciler makes it before it deploys models"
        )
    return str(kept.decode())
