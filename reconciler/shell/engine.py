"""The class that runs in every model's replica, sent to the cluster by value: nodes need Ray and vLLM, not Argus."""

from __future__ import annotations

from ray.llm._internal.serve.core.configs.openai_api_models import (
    CompletionRequest,
    EmbeddingCompletionRequest,
    ErrorResponse,
)
from ray.serve.llm.deployment import LLMServer


class ModelServer(LLMServer):
    """Ray's LLMServer that counts as started only when its engine has answered a request.

    Serve awaits `start` before it calls a replica running, so "running" means "answers", and the slow first request
    of an engine (14 s on a CPU) is not a user's.
    """

    async def start(self) -> None:
        """Start the engine and let it answer once. Raises RuntimeError with its own words where it does not."""
        # Ray would download the model in a worker process of its own, which takes 20 s of imports to find a folder.
        self._llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()
        model = self._llm_config.model_id
        if self.engine._oai_serving_completion is not None:
            answers = self.engine.completions(CompletionRequest(model=model, prompt="Hello", max_tokens=1))
        elif self.engine._oai_serving_embedding is not None:
            answers = self.engine.embeddings(EmbeddingCompletionRequest(model=model, input="Hello"))
        else:  # a classifier or a reranker: its engine is up, and there is no request that fits all of them
            await self.engine.check_health()
            return
        async for answer in answers:
            if isinstance(answer, ErrorResponse):
                raise RuntimeError(  # noqa: TRY004  the engine's refusal, not a caller's wrong type
                    f"the engine started but does not answer: {answer.error.message}"
                )
