"""What vLLM's own HTTP app promises to strangers once it is made fit. No engine is needed for that."""

from __future__ import annotations

import argparse
import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from reconciler.core import wire

pytestmark = pytest.mark.timeout(300)

ANSWER_BYTES = 2000
ELEMENTS = 1000

ERRORS = 300
"""More than the ways in which one element can be wrong: vLLM knows 243 kinds of input to `/v1/responses`."""

MESSAGES = [{"role": "user", "content": "x"}]
WRONG: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": [{"a": {"b": 1}}] * ELEMENTS},
        {"messages": MESSAGES, "tools": [5] * ELEMENTS},
        {"messages": MESSAGES, "stop_token_ids": ["x"] * ELEMENTS},
        {"messages": MESSAGES, "logit_bias": {str(i): "x" for i in range(ELEMENTS)}},
    ],
    "/v1/completions": [{"prompt": [[{}]] * ELEMENTS}, {"prompt": ["a", 5] * (ELEMENTS // 2)}],
    "/v1/responses": [
        {"input": [5] * ELEMENTS},
        {"input": [{"role": "user", "content": [{"type": "input_image"}] * ELEMENTS}]},
        {"input": "x", "tools": [{"type": "zzz"}] * ELEMENTS},
        {"input": "x", "previous_input_messages": [5] * ELEMENTS},
    ],
    "/v1/messages": [
        {"max_tokens": 1, "messages": [{"a": 1}] * ELEMENTS},
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "zzz"}] * ELEMENTS}]},
    ],
    "/v1/messages/count_tokens": [{"messages": [{"role": "user", "content": [{"type": "zzz"}] * ELEMENTS}]}],
    "/v1/embeddings": [{"input": [[{}]] * ELEMENTS}, {"messages": [{"a": 1}] * ELEMENTS}],
    "/v2/embed": [{"texts": [5] * ELEMENTS}, {"inputs": [{"content": [5] * ELEMENTS}]}],
    "/pooling": [{"input": [[{}]] * ELEMENTS}, {"messages": [{"a": 1}] * ELEMENTS}],
    "/classify": [{"input": [[{}]] * ELEMENTS}, {"messages": [{"a": 1}] * ELEMENTS}],
    "/score": [{"text_1": [{"a": 1}] * ELEMENTS, "text_2": [5] * ELEMENTS}],
    "/v1/score": [{"queries": [5] * ELEMENTS, "documents": [5] * ELEMENTS}],
    "/rerank": [{"query": "x", "documents": [5] * ELEMENTS}],
    "/v1/rerank": [{"query": "x", "documents": [5] * ELEMENTS}],
    "/v2/rerank": [{"query": "x", "documents": [5] * ELEMENTS}],
    "/tokenize": [{"messages": [{"a": {"b": 1}}] * ELEMENTS}, {"prompt": [5] * ELEMENTS}],
    "/detokenize": [{"tokens": ["x"] * ELEMENTS}],
}

FITTING: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": MESSAGES, "stop": ["a", "b"], "logit_bias": {"5": 1.5}, "stream": True},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "b"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        },
    ],
    "/v1/completions": [{"prompt": "x"}, {"prompt": ["x", "y"]}, {"prompt": [[1, 2], [3]], "logprobs": 2}],
    "/v1/responses": [
        {"input": "x"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "tools": []},
    ],
    "/v1/messages": [{"max_tokens": 1, "messages": MESSAGES, "system": [{"type": "text", "text": "a"}]}],
}


def an_app(tasks: tuple[str, ...], pooling_task: str | None) -> Any:
    """Build vLLM's app as Ray does, for a model that does `tasks`."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    args = argparse.Namespace(**(vars(FrontendArgs()) | vars(AsyncEngineArgs(model="none"))))
    model = SimpleNamespace(get_pooling_task=lambda _: pooling_task, hf_config=SimpleNamespace(num_labels=1))
    app = build_app(args, supported_tasks=tasks, model_config=model)
    app.state.args = args
    return app


@pytest.fixture(scope="module")
def app() -> Any:
    from reconciler.shell.engine_app import fit

    everything = an_app(("generate", "embed", "classify"), "classify")
    fit(everything)
    return everything


def post(app: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.post(path, json={"model": "m", **body})

    return asyncio.run(ask())


def body_adapter(app: Any, path: str) -> Any:
    (field,) = next(route for route in app.routes if route.path == path).dependant.body_params
    return field._type_adapter


def test_every_inference_path_is_tried_here(app: Any) -> None:
    assert set(WRONG) == wire.INFERENCE
    assert {getattr(route, "path", None) for route in app.routes} >= wire.INFERENCE


@pytest.mark.parametrize("path", sorted(wire.INFERENCE))
def test_a_request_that_does_not_fit_is_refused_in_few_words_however_long_it_is(app: Any, path: str) -> None:
    for body in WRONG[path]:
        refused = post(app, path, body)
        assert (refused.status_code, "error" in refused.json()) == (400, True)
        assert len(refused.content) < ANSWER_BYTES


@pytest.mark.parametrize("path", sorted(wire.INFERENCE))
def test_reading_stops_at_the_first_element_that_does_not_fit(app: Any, path: str) -> None:
    from pydantic import ValidationError

    for body in WRONG[path]:
        with pytest.raises(ValidationError) as refused:
            body_adapter(app, path).validate_python({"model": "m", **body})
        assert refused.value.error_count() < ERRORS


@pytest.mark.parametrize("path", sorted(FITTING))
def test_what_fits_is_read_as_vllm_reads_it(app: Any, path: str) -> None:
    untouched = an_app(("generate",), None)
    for body in FITTING[path]:
        read, expected = (
            body_adapter(each, path).validate_python({"model": "m", "request_id": "r", **body}).model_dump(mode="json")
            for each in (app, untouched)
        )
        assert read == expected


def test_a_path_of_another_kind_of_model_is_refused_in_openais_form() -> None:
    from reconciler.shell.engine_app import fit

    generator = an_app(("generate",), None)
    fit(generator)
    refused = post(generator, "/v1/embeddings", {"input": "x"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "not_supported"


def test_the_error_names_the_place_and_not_what_was_sent(app: Any) -> None:
    refused = post(app, "/v1/completions", {"prompt": "x", "max_tokens": "a-secret-of-the-clients"})
    assert "max_tokens: " in refused.json()["error"]["message"]
    assert "a-secret-of-the-clients" not in refused.text
    assert json.loads(refused.content)["error"]["param"] is None
