"""What goes over the wire between clients, a front and a replica: the routes that users may reach, and our headers.

Sent to the cluster by value, so it imports nothing of Argus.
"""

from __future__ import annotations

INFERENCE = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v2/embed",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/tokenize",
        "/detokenize",
    }
)
"""Every path that reaches an engine, by POST with a JSON body that names its model.

Default deny: what an engine offers beyond these administers it (`/pause`, `/update_weights`, `/v1/load_lora_adapter`),
shows its inside (`/metrics`, `/server_info`) or goes round the names (`/invocations`, `/inference/v1/generate`).
"""

SECRET_HEADER = "x-argus-front"  # noqa: S105  a header's name
"""Request header by which a replica knows that a request came through a front."""

OWN_HEADERS = "x-argus-"
"""What our headers begin with. A front drops those that a client sends, and a replica's but for the ones below."""

KEY_HEADER = "x-argus-model-key"
"""Response header: the model that answered, by its key."""

COMMIT_HEADER = "x-argus-commit"
"""Response header: the commit whose spec the engine that answered was built from."""

HEALTH_PATH = "/-/ready"
"""GET, without the secret: 200 while a replica is in service, 404 where it goes, 503 where its engine is dead.

404 is HAProxy's word for "nothing new, but let what runs end" (`http-check disable-on-404`).
"""
