"""The class that runs in every model's replica, sent to the cluster by value: nodes need Ray and vLLM, not Argus."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from typing import Any

import httpx
import ray
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from vllm.utils.system_utils import set_ulimit

from reconciler.core.root_cause import explain
from reconciler.core.wire import SECRET_HEADER
from reconciler.shell.engine_app import fit
from reconciler.shell.engine_log import ReplicaOutput
from reconciler.shell.front_secret import front_secret
from reconciler.shell.replica_server import ReplicaServer

log = logging.getLogger(__name__)

LAST_WORDS_S = 0.5
"""How long the processes of an engine that failed may take to say their last words."""

FIRST_ANSWER_LIMIT_S = 300.0
"""How long the first answer may take. It takes 14 s on a CPU; kernels that are compiled for a GPU take minutes."""


class ModelServer(LLMServer):
    """Ray's LLMServer with an HTTP server of its own, which fronts send requests to.

    It counts as started only when it has answered a request that came in as a user's does. Serve awaits `start` before
    it calls a replica running, so "running" means "answers", and the slow first request of an engine is not a user's.

    Args:
        llm_config: What Ray builds the engine from.
        model_key: The model that this is a replica of.
        version: `Workload.version` of what the engine is built from.
        drain_s: How long requests may go on once Serve stops this replica.
        kwargs: What LLMServer takes besides.
    """

    async def __init__(  # type: ignore[misc]  # a coroutine, as LLMServer's is: Serve awaits it
        self, llm_config: LLMConfig, *, model_key: str, version: str, drain_s: float, **kwargs: Any
    ) -> None:
        self._model_key = model_key
        self._version = version
        self._drain_s = drain_s
        self._server: ReplicaServer | None = None
        self._output = ReplicaOutput()
        try:
            self._output.announce(model_key)
        except Exception as error:  # a model is not kept from starting by what would only be shown of it
            log.warning("this engine's log will not be collected: %s: %s", type(error).__name__, error)
        await super().__init__(llm_config, **kwargs)

    async def start(self) -> None:
        """Start the engine and its HTTP server, and let it answer once.

        Raises RuntimeError that says in the engine's own words why it does not start or answer (`root_cause.explain`).
        """
        try:
            await self._start()
        except Exception as error:
            traceback.print_exc()  # whole, for the log; what is raised goes to the model's owner
            await asyncio.sleep(LAST_WORDS_S)
            words = explain(_said(error), self._output.lines(), kernel_killed=self._output.kernel_killed())
            raise RuntimeError(words) from None

    async def _start(self) -> None:
        secret = front_secret()
        # Ray would download the model in a worker process of its own, which takes 20 s of imports to find a folder.
        self._llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()
        client = self.engine._engine_client
        app = await self.engine.build_asgi_app()
        fit(app)
        self._server = ReplicaServer(
            app,
            secret=secret,
            model_key=self._model_key,
            version=self._version,
            is_healthy=lambda: not client.errored,
        )
        set_ulimit()  # each connection is an open file, and 1024 is a common limit
        address = await self._server.start(ray.util.get_node_ip_address())
        asked = _a_request(app.state, self._llm_config.model_id)
        if asked is None:
            await self.engine.check_health()
        else:
            await _answer(address, secret, *asked)
        # What was made so far stays: a full collection would walk all of torch and vLLM in the middle of a stream.
        gc.collect()
        gc.freeze()

    def record_replica_metadata(self) -> dict[str, Any]:
        """Tell Serve where this replica listens. A hook of Serve's, called once `start` is through."""
        return {} if self._server is None else self._server.metadata()

    async def __del__(self) -> None:
        """Let requests end. Serve awaits it when it stops a replica, up to `graceful_shutdown_timeout_s`."""
        server = getattr(self, "_server", None)
        if server is not None:
            await server.drain(self._drain_s)
        await super().__del__()


def _a_request(state: Any, model: str) -> tuple[str, dict[str, Any]] | None:
    """Give a path and a body that this engine answers, the smallest there is; None where none fits.

    Args:
        state: The state of vLLM's app: one handler for each thing that the engine can do, and None for the others.
        model: The name that the engine goes by.
    """
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "openai_serving_completion": ("/v1/completions", {"prompt": "Hello", "max_tokens": 1}),
        "serving_embedding": ("/v1/embeddings", {"input": "Hello"}),
        "serving_scores": ("/score", {"text_1": "Hello", "text_2": "Hello"}),
        "serving_classification": ("/classify", {"input": "Hello"}),
    }
    for handler, (path, body) in requests.items():
        if getattr(state, handler, None) is not None:
            return path, {"model": model, **body}
    return None


async def _answer(address: str, secret: str, path: str, body: dict[str, Any]) -> None:
    """Ask for one answer as a front does. Raises RuntimeError where it is not 200."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=FIRST_ANSWER_LIMIT_S) as client:
            answer = await client.post(f"http://{address}{path}", json=body, headers={SECRET_HEADER: secret})
    except httpx.HTTPError as error:
        raise RuntimeError(f"the engine started but does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"the engine started but does not answer: {_words(answer)}")


def _said(error: Exception) -> str:
    """Give an exception as text, with its type where the text alone would not be a sentence."""
    return str(error) if type(error) in {RuntimeError, ValueError} else f"{type(error).__name__}: {error}"


def _words(answer: httpx.Response) -> str:
    """Give an engine's own words from its refusal."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:500]}"
