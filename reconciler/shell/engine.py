"""The class that runs in every model's replica, sent to the cluster by value: nodes need Ray and vLLM, not Argus."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import ssl
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import ray
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from vllm.utils.system_utils import set_ulimit

from reconciler.core.root_cause import explain, explain_end
from reconciler.core.wire import SECRET_HEADER
from reconciler.shell.below import end_below, processes_below, read_by
from reconciler.shell.engine_app import fit
from reconciler.shell.engine_log import ReplicaOutput
from reconciler.shell.front_secret import front_secret
from reconciler.shell.load_watch import LoadEnded, LoadWatch, Pace
from reconciler.shell.phases import forget, is_stopped, tell
from reconciler.shell.pulse import Keeper, Pulse, Rhythm
from reconciler.shell.ray_workers import ray_workers
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
    The engine is watched from the beginning: a load that hangs is ended and fails, and later on an engine that died or
    hangs takes its replica with it, and Serve starts another.

    Args:
        llm_config: What Ray builds the engine from.
        model_key: The model that this is a replica of.
        version: `Workload.version` of what the engine is built from.
        drain_s: How long requests may go on once Serve stops this replica.
        hang_s: How long an engine that was asked may give no sign of life.
        load_s: How long an engine that loads may show no progress.
        kwargs: What LLMServer takes besides.
    """

    async def __init__(  # type: ignore[misc]  # a coroutine, as LLMServer's is: Serve awaits it
        self,
        llm_config: LLMConfig,
        *,
        model_key: str,
        version: str,
        drain_s: float,
        hang_s: float,
        load_s: float,
        **kwargs: Any,
    ) -> None:
        self._model_key = model_key
        self._version = version
        self._drain_s = drain_s
        self._hang_s = hang_s
        self._load_s = load_s
        self._keeper: Keeper | None = None
        self._server: ReplicaServer | None = None
        self._output = ReplicaOutput()
        try:
            self._output.announce(model_key)
        except Exception as error:  # a model is not kept from starting by what would only be shown of it
            log.warning("this engine's log will not be collected: %s: %s", type(error).__name__, error)
        await super().__init__(llm_config, **kwargs)

    async def start(self) -> None:
        """Start the engine and its HTTP server, and let it answer once.

        Raises RuntimeError that says why it does not start or answer: in the engine's own words (`root_cause.explain`),
        or that it hung. Nothing of the engine runs any more then.
        """
        try:
            with LoadWatch(Pace(self._load_s), self._signs, end_below, is_stopped) as watch:
                await self._start(watch)
            print(f"started; the longest silence meanwhile was {watch.longest_silence_s:.0f} s", flush=True)
        except Exception as error:
            traceback.print_exc()  # whole, for the log; what is raised goes to the model's owner
            await asyncio.sleep(LAST_WORDS_S)
            end_below()
            lines = self._output.lines()
            if isinstance(error, LoadEnded):
                words = explain_end(str(error), lines)
            else:
                words = explain(_said(error), lines, kernel_killed=self._output.kernel_killed())
            raise RuntimeError(words) from None

    def _signs(self) -> int:
        """Give what grows while an engine loads: what it prints, and what it and its workers read."""
        below = processes_below()
        return self._output.printed() + read_by([*below, *ray_workers(below)])

    async def _start(self, watch: LoadWatch) -> None:
        secret = front_secret()
        # Ray would download the model in a worker process of its own, which takes 20 s of imports to find a folder.
        self._llm_config.get_or_create_callback().ctx.run_init_node = False
        await self._load()
        tell("warming_up")
        watch.phase = "warming up"
        client = self.engine._engine_client
        app = await self.engine.build_asgi_app()
        fit(app)
        server = self._server = ReplicaServer(
            app,
            secret=secret,
            model_key=self._model_key,
            version=self._version,
            is_healthy=lambda: not client.errored and (self._keeper is None or self._keeper.why is None),
        )
        set_ulimit()  # each connection is an open file, and 1024 is a common limit
        address = await server.start(ray.util.get_node_ip_address())
        asked = _a_request(app.state, self._llm_config.model_id)

        async def answer(limit_s: float) -> None:
            if asked is None:
                await client.is_sleeping()
            else:
                await _answer(address, secret, *asked, limit_s=limit_s)

        await answer(FIRST_ANSWER_LIMIT_S)
        rhythm = Rhythm(limit_s=self._hang_s)
        engine = WatchedEngine(client, server, lambda: answer(2 * rhythm.stalled_s))
        pulse = Pulse(engine, rhythm)
        engine.tell(pulse.beat)
        self._keeper = Keeper(pulse, server.idle, end_process)
        self._keeper.start()
        forget()
        # What was made so far stays: a full collection would walk all of torch and vLLM in the middle of a stream.
        gc.collect()
        gc.freeze()

    async def _load(self) -> None:
        """Do what LLMServer's own `start` does, without its limit of an hour (RAYLLM_ENGINE_START_TIMEOUT_S).

        It ends nothing that hangs, since its timer's loop is what vLLM blocks. What takes longer it throws away, once
        it is loaded.
        """
        self.engine = self._engine_cls(self._llm_config)
        await self._start_engine()

    async def check_health(self) -> None:
        """Serve's question. Raises RuntimeError with why the engine is dead; its process is about to end then."""
        if self._keeper is not None:
            self._keeper.check()

    def record_replica_metadata(self) -> dict[str, Any]:
        """Tell Serve where this replica listens. A hook of Serve's, called once `start` is through."""
        return {} if self._server is None else self._server.metadata()

    async def __del__(self) -> None:
        """Let requests end. Serve awaits it when it stops a replica, up to `graceful_shutdown_timeout_s`."""
        server = getattr(self, "_server", None)
        if server is not None:
            await server.drain(self._drain_s)
        await super().__del__()


class WatchedEngine:
    """A vLLM engine as `pulse.Engine`.

    Args:
        client: vLLM's AsyncLLM.
        server: The replica's own server, which users' requests come through.
        answer: Has the engine answer a request of its own through that server.
    """

    def __init__(self, client: Any, server: ReplicaServer, answer: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._server = server
        self._answer = answer

    def has_failed(self) -> bool:
        """Keep `pulse.Engine.has_failed`."""
        return bool(self._client.errored)

    def is_asked(self) -> bool:
        """Keep `pulse.Engine.is_asked`."""
        return self._server.in_flight > 0

    async def answer(self) -> None:
        """Keep `pulse.Engine.answer`. A replica that goes may take no connections any more, not even its own."""
        await (self.turn() if self._server.is_leaving else self._answer())

    async def turn(self) -> None:
        """Keep `pulse.Engine.turn`: vLLM answers this between two steps of its engine, without the model."""
        await self._client.is_sleeping()

    def tell(self, beat: Callable[[], None]) -> None:
        """Call `beat` whenever a step of the engine has given something, a token or an embedding of any request."""
        core = self._client.engine_core
        outputs = core.get_output_async

        async def heard() -> Any:
            given = await outputs()
            beat()
            return given

        core.get_output_async = heard


def end_process() -> None:
    """End this process and all below it: they hold what the next replica needs."""
    end_below()
    os._exit(1)


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


async def _answer(
    address: str, secret: str, path: str, body: dict[str, Any], *, limit_s: float = FIRST_ANSWER_LIMIT_S
) -> None:
    """Ask for one answer as a front does. Raises RuntimeError where it is not 200."""
    try:
        # With an empty context of TLS: to load the authorities of the web takes 30 ms, which every stream would wait.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with httpx.AsyncClient(trust_env=False, verify=tls, timeout=limit_s) as client:
            answer = await client.post(f"http://{address}{path}", json=body, headers={SECRET_HEADER: secret})
    except httpx.HTTPError as error:
        raise RuntimeError(f"the engine does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"the engine does not answer: {_words(answer)}")


def _said(error: Exception) -> str:
    """Give an exception as text, with its type where the text alone would not be a sentence."""
    return str(error) if type(error) in {RuntimeError, ValueError} else f"{type(error).__name__}: {error}"


def _words(answer: httpx.Response) -> str:
    """Give an engine's own words from its refusal."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:500]}"
