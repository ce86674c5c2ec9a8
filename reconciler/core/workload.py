"""From a spec to what the runtime is asked to run, and the digest that says when an engine must be built anew."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

from reconciler.core.entities import Identity, Located, Workload
from reconciler.engine_args import given
from reconciler.spec import ServingSpec


def engine_version(spec: ServingSpec, identity: Identity, platform: str) -> str:
    """Digest everything that an engine is built from: 16 hex digits.

    `num_replicas` is left out, so that scaling keeps the replicas that run. `platform` is whatever the platform's
    own configuration adds to every engine: changing that is a new version of every model. A hub name counts as it is
    written, not as the snapshot that it names today: a moved branch in the cache restarts nobody.
    """
    return _digest(spec, identity.model_id, platform)


# Each pass asks three times for each model: making the digest anew each time was a fifth of a pass over 1000 models.
@lru_cache(maxsize=65_536)
def _digest(spec: ServingSpec, model_id: str, platform: str) -> str:
    parts = {
        "model_id": model_id,
        "model_source": spec.model_source,
        "gpus_per_replica": spec.gpus_per_replica,
        "engine_kwargs": given(spec.engine_kwargs),
        "platform": platform,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def workload(spec: ServingSpec, identity: Identity, folder: Located, platform: str) -> Workload:
    """Give what the runtime is asked to run for an accepted spec whose folder was found."""
    return Workload(
        model_key=identity.model_key,
        model_id=identity.model_id,
        user_id=identity.user_id,
        created_at=identity.created_at,
        version=engine_version(spec, identity, platform),
        source_path=folder.path,
        num_replicas=spec.num_replicas,
        gpus_per_replica=spec.gpus_per_replica,
        engine_kwargs=given(spec.engine_kwargs),
    )
