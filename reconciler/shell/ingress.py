"""The OpenAI ingress: Ray's own, with a list of models that changes in place and an answer for those not ready.

Sent to the cluster by value, like `engine`: nodes need Ray and vLLM, not Argus. Ray's ingress takes its models as
constructor arguments, so each added model would replace its process. This one takes them from `user_config`, which
Serve hands to `reconfigure` of the live process.

Whether a model is ready is read from the router behind its handle, which Serve keeps current by long poll: that works
while the reconciler is away, and costs nothing a request.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.llm._internal.serve.core.configs.openai_api_models import OpenAIHTTPException
from ray.llm._internal.serve.core.ingress.ingress import (
    DEFAULT_ENDPOINTS,
    OpenAiIngress,
    init,
    make_fastapi_ingress,
)
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

FIRST_LOOK_S = 5.0
"""How long a new handle may take to learn of its replicas, before the model counts as not ready."""

STATUS_AGE_S = 1.0
RETRY_LOADING_S = 10
RETRY_FAILED_S = 60
RETRY_LOST_S = 2


class Unavailable(Exception):
    """A request that is answered without a model. Carries what OpenAI's error form wants."""

    def __init__(self, status: int, message: str, code: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s


def _error(status: int, message: str, code: str | None, retry_after_s: int | None = None) -> JSONResponse:
    """Give an error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    content = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(content=content, status_code=status, headers=headers)


def _fastapi_app() -> FastAPI:
    app: FastAPI = init()

    @app.exception_handler(Unavailable)
    async def unavailable(_request: Request, error: Unavailable) -> JSONResponse:
        return _error(error.status, error.message, error.code, error.retry_after_s)

    @app.exception_handler(OpenAIHTTPException)
    async def engine_refused(_request: Request, error: OpenAIHTTPException) -> JSONResponse:
        return _error(error.status_code, error.message, error.type)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), None)

    @app.exception_handler(RayActorError)
    async def replica_died(_request: Request, _error_: RayActorError) -> JSONResponse:
        return _error(503, "the replica that worked on this request died; try again", "replica_died", RETRY_LOST_S)

    return app


def replicas_known(handle: DeploymentHandle) -> int | None:
    """Say how many replicas a handle's router can send to; None while it has not heard of its deployment yet.

    Private to Ray: `tests/contracts/test_serve_runtime.py` fails when it changes.
    """
    router = handle._router
    inner = getattr(router, "_asyncio_router", router)
    known = inner._request_router
    return None if known is None else len(known.curr_replicas)


class _Ingress(OpenAiIngress):
    def __init__(self, app_name: str, deployments: dict[str, DeploymentHandle]) -> None:
        """Start without a model: the list comes by `reconfigure`.

        Args:
            app_name: The Serve application whose deployments are the models.
            deployments: Not read. Binding them here is what makes them part of the application.
        """
        super().__init__(llm_deployments={}, model_cards={})
        self._app_name = app_name
        self._models: dict[str, dict[str, Any]] = {}
        self._handles: dict[str, DeploymentHandle] = {}
        self._status: tuple[float, dict[str, Any]] = (0.0, {})

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take the list of models (`CatalogueEntry.as_json`), keeping the handles of those that stay."""
        models = {model["model_id"]: model for model in config["models"]}
        handles = {}
        for model in models.values():
            key = model["model_key"]
            if model["reason"] is None:
                handles[key] = self._handles.get(key) or self._handle(key)
        self._handles = handles
        self._models = models

    def _handle(self, key: str) -> DeploymentHandle:
        return serve.get_deployment_handle(key, self._app_name).options(stream=True)

    async def _get_model_id(self, model: str | None) -> str:
        if model is None and len(self._models) == 1:
            model = next(iter(self._models))
        if model is None:
            raise Unavailable(400, "name a model: several are served here (GET /v1/models)", "model_required")
        known = self._models.get(model)
        if known is None:
            raise Unavailable(404, f"the model `{model}` does not exist (GET /v1/models)", "model_not_found")
        await self._require_ready(known)
        return model

    def _get_configured_serve_handle(self, model_id: str) -> DeploymentHandle:
        return self._handles[self._models[model_id]["model_key"]]

    async def _require_ready(self, model: dict[str, Any]) -> None:
        name = model["model_id"]
        if model["reason"] is not None:
            raise Unavailable(
                503, f"the model `{name}` is not served now: {model['reason']}", "model_not_ready", RETRY_FAILED_S
            )
        handle = self._handles[model["model_key"]]
        deadline = time.monotonic() + FIRST_LOOK_S
        while (replicas := replicas_known(handle)) is None and time.monotonic() < deadline:  # noqa: ASYNC110  Ray's router announces nothing to wait for
            await asyncio.sleep(0.02)
        if replicas:
            return
        if await self._deployment_status(model["model_key"]) == "DEPLOY_FAILED":
            raise Unavailable(503, f"the model `{name}` failed to start", "model_failed", RETRY_FAILED_S)
        raise Unavailable(503, f"the model `{name}` is still loading", "model_loading", RETRY_LOADING_S)

    async def _deployment_status(self, key: str) -> str | None:
        """Ask Serve how a deployment is, at most once a second for all of them."""
        at, deployments = self._status
        if time.monotonic() - at > STATUS_AGE_S:
            status = await asyncio.to_thread(serve.status)
            app = status.applications.get(self._app_name)
            deployments = app.deployments if app else {}
            self._status = (time.monotonic(), deployments)
        found = deployments.get(key)
        return found.status.value if found else None

    def _is_ready(self, model: dict[str, Any]) -> bool:
        return model["reason"] is None and bool(replicas_known(self._handles[model["model_key"]]))

    async def models(self) -> dict[str, Any]:
        """List the models that answer."""
        return {"object": "list", "data": [_card(model) for model in self._models.values() if self._is_ready(model)]}

    async def model_data(self, model: str) -> dict[str, Any]:
        """Describe one model that answers; 404 or 503 as for a request to it."""
        await self._get_model_id(model)
        return _card(self._models[model])


def _card(model: dict[str, Any]) -> dict[str, Any]:
    return {"id": model["model_id"], "object": "model", "created": model["created"], "owned_by": model["owner"]}


_ENDPOINTS = {
    **DEFAULT_ENDPOINTS,
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
}


def ingress_class() -> type[Any]:
    """Give the ingress as a class for `serve.deployment`, with Ray's endpoints and our answers."""
    return make_fastapi_ingress(_Ingress, endpoint_map=_ENDPOINTS, app=_fastapi_app())  # type: ignore[no-any-return]  # Ray ships no types
