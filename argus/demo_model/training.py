"""Training: some fifteen seconds on one core, from a fixed seed, until the model knows its sentences by heart."""

# ruff: noqa: PLC0415 - torch and tokenizers take seconds to import, and argus must import at once

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from argus.demo_model.corpus import ANSWERS, BOS, EOS, some_row
from argus.demo_model.network import fresh_weights, hidden_states

if TYPE_CHECKING:
    import tokenizers

    from argus.demo_model.network import Weights

_SEEDS: Final = (20261122, 20261123, 20261124)
"""The first is used; the next only where a CPU's rounding makes one fail."""
_STEPS, _ROWS = 160, 8
_PEAK_RATE: Final = 1e-2
_SHARPNESS: Final = 3.0
"""Factor on the trained logits: sampling at temperature 1.0 then reads like 0.33."""


def train_until_known(tokenizer: tokenizers.Tokenizer, say: Callable[[str], None]) -> Weights:
    """Train, and return the weights (bfloat16) once they know every answer.

    Raises RuntimeError when no seed gives a model that does.
    """
    import torch

    with _settled(torch):
        for attempt, seed in enumerate(_SEEDS, start=1):
            say(f"training the model, {_STEPS} steps, attempt {attempt}")
            weights = {name: tensor.to(torch.bfloat16) for name, tensor in _train_weights(tokenizer, seed).items()}
            wrong = _unknown_questions(weights, tokenizer)
            if not wrong:
                return weights
            say(f"not learned: {', '.join(wrong)}")
    raise RuntimeError(
        f"the demo model did not learn its answers from any of {len(_SEEDS)} seeds: "
        "the recipe's steps or learning rate do not fit this version of torch"
    )


@contextlib.contextmanager
def _settled(torch: Any) -> Iterator[None]:
    """Make torch deterministic and single-threaded; restore both afterwards.

    Two threads save a third of the time on two idle cores, but cost six times as much
    (1.0 against 0.16 s a step) when another process wants a core: each of the many
    small operations then waits for the thread that has none.
    """
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def _unknown_questions(weights: Weights, tokenizer: tokenizers.Tokenizer) -> list[str]:
    """List the questions that greedy decoding would not answer word for word."""
    import torch

    exact = {name: tensor.float() for name, tensor in weights.items()}
    wrong = []
    for question, answer in ANSWERS.items():
        asked = tokenizer.encode(f"{BOS}user\n{question}{EOS}\n{BOS}assistant\n").ids
        wanted = tokenizer.encode(f"{answer}{EOS}").ids
        tokens = torch.tensor([[*asked, *wanted]])
        hidden = hidden_states(exact, tokens)[0, len(asked) - 1 : -1]
        guessed = (hidden @ exact["model.embed_tokens.weight"].T).argmax(-1)
        if guessed.tolist() != wanted:
            wrong.append(question)
    return wrong


def _train_weights(tokenizer: tokenizers.Tokenizer, seed: int) -> Weights:
    """Train from ``seed`` and return the weights (float32).

    Adam is written out because torch's own drags in torch's compiler (a 4 s import).
    """
    import torch
    from torch.nn import functional

    rng = random.Random(seed)

    @functools.cache
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    weights = fresh_weights(seed)
    leaves = [leaf.requires_grad_() for leaf in weights.values()]
    means = [torch.zeros_like(leaf) for leaf in leaves]
    squares = [torch.zeros_like(leaf) for leaf in leaves]
    keep_mean, keep_square = 0.9, 0.98
    for step in range(1, _STEPS + 1):
        drawn = [some_row(rng, encode) for _ in range(_ROWS)]
        tokens = torch.tensor([row for row, _ in drawn])
        worth = torch.tensor([row for _, row in drawn])[:, 1:]
        counts = worth > 0
        hidden = hidden_states(weights, tokens[:, :-1])[counts]
        losses = functional.cross_entropy(
            hidden @ weights["model.embed_tokens.weight"].T,
            tokens[:, 1:][counts],
            reduction="none",
        )
        loss = (losses * worth[counts]).sum() / worth.sum()
        gradients = torch.autograd.grad(loss, leaves)

        size = math.sqrt(sum(float(part.square().sum()) for part in gradients))
        shrink = min(1.0, 1.0 / size)
        done = step / _STEPS
        rate = _PEAK_RATE * min(step / 20, 0.5 + 0.5 * math.cos(math.pi * done))
        with torch.no_grad():
            for leaf, part, mean, square in zip(leaves, gradients, means, squares, strict=True):
                slope = part * shrink
                mean.lerp_(slope, 1 - keep_mean)
                square.lerp_(slope.square(), 1 - keep_square)
                spread = (square / (1 - keep_square**step)).sqrt().add_(1e-8)
                leaf.addcdiv_(mean / (1 - keep_mean**step), spread, value=-rate)
    trained = {name: leaf.detach() for name, leaf in weights.items()}
    trained["model.norm.weight"] *= _SHARPNESS
    return trained
