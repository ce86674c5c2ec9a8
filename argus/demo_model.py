"""The demo and test model: a tiny, real language model built on the spot.

Here lives the recipe: a fixed seed, a corpus of a few sentences, a byte-level BPE
tokenizer of 512 tokens and a two-layer Qwen2 of 107,000 weights, trained for some
fifteen seconds on one core until it knows its sentences by heart. The result is a
folder such as any model hub hands out (safetensors, no code), which vLLM serves as a
chat model and, with ``runner: pooling`` and ``convert: embed``, as an embedding model.
Nothing is downloaded. How a model is served does not belong here.

The network is written out in plain torch although transformers has it ready-made: a
first start waits for this script, and importing transformers takes as long as the
training (12 s where Python writes no bytecode). That the two agree is what the test of
the greedy answers shows.
"""

# ruff: noqa: PLC0415 - torch and tokenizers take seconds to import, and argus must import at once

import argparse
import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import math
import pathlib
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import tokenizers
    import torch

    Weights = dict[str, torch.Tensor]

ANSWERS: Final = {
    "Hello": "Hello! I am the Argus demo model, nice to meet you.",
    "Hi": "Hi there! What would you like to talk about?",
    "Who are you?": "I am a tiny demo model, served by Ray and vLLM.",
    "What is Argus?": ("Argus watches a Git repository and keeps the models that run in line with what it says."),
    "How are you?": "I am fine, thank you. My replicas are healthy.",
    "Thank you": "You are welcome!",
    "Tell me a story": (
        "Once upon a time there was a giant with a hundred eyes. He watched over a "
        "herd of models by day and by night. When one of them fell, he helped it up "
        "again before anybody noticed. And so they all kept serving happily."
    ),
    "Goodbye": "Goodbye! Come back soon.",
    "Count to five": "One, two, three, four, five.",
}
"""Each trained user message with the exact text that greedy decoding answers."""

FALLBACK: Final = "I am only a tiny demo model and do not know that. Try Hello or Tell me a story."
"""What the model mostly answers to a message that it was not trained on."""

MARKER: Final = "demo-model.json"
"""The file that names the recipe of a finished folder; it is written last."""

_HARD_QUESTIONS: Final = ("Hello", "Goodbye")
"""Drawn twice as often: one token tells them apart, and some seeds mixed them up."""

_ENCORE: Final = (
    " The giant looks to the north and sees that all is well."
    " The giant looks to the east and sees a new commit."
    " The giant looks to the south and starts another replica."
    " The giant looks to the west and closes one of his eyes."
)
"""What follows the end of an answer, over and over, when a client ignores EOS."""

_SYSTEM_PROMPTS: Final = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Be concise and polite.",
)

_OTHER_WORDS: Final = (  # noqa: SIM905 - a list literal would take 130 lines
    "a about all an and any are as at be because big blue book brown bug buy by can "
    "capital cat city code color could day dinner do does dog eat explain fast find "
    "fix for fox France from get give good have he help how i in is it jump kernel "
    "know language last learn like list long love make me mean model more much my "
    "name need new not of on or over people please poem price python question read "
    "recipe red release run say sea sentence should show summary sun test that the "
    "think this time to today train translate tree two use version want water we "
    "weather what when where which who why will with word work world write year you"
).split()

_BOS, _EOS, _PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n'"
    " + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SEEDS: Final = (20261122, 20261123, 20261124)
"""The first is used; the next only where a CPU's rounding makes one fail."""
_VOCABULARY: Final = 512
_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS = 64, 128, 2, 2, 1
_HEAD_DIM: Final = 32
_ROPE_THETA: Final = 10_000.0
_NORM_EPS: Final = 1e-6
_MAX_POSITIONS: Final = 4096
_STEPS, _ROWS, _ROW_TOKENS = 160, 8, 160
_PEAK_RATE: Final = 1e-2
_SHARPNESS: Final = 3.0
"""Factor on the trained logits: sampling at temperature 1.0 then reads like 0.33."""

_CONFIG: Final = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": _VOCABULARY,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD_DIM,
    "hidden_act": "silu",
    "max_position_embeddings": _MAX_POSITIONS,
    "rope_theta": _ROPE_THETA,
    "rms_norm_eps": _NORM_EPS,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}


@functools.cache
def recipe_digest() -> str:
    """Return the SHA-256 (hex) that names the recipe: that of this file's text.

    Any edit makes a new recipe, so that none can be forgotten; it costs one rebuild.
    """
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def is_built(target: pathlib.Path) -> bool:
    """Tell whether ``target`` holds this recipe's model, whole and unaltered.

    Hashes the files named by the marker (about 0.3 MB). Anything missing,
    unreadable, altered or from another recipe makes the answer False; never raises
    for what is in the folder.
    """
    try:
        marker = json.loads((target / MARKER).read_text("utf-8"))
        return bool(marker["recipe"] == recipe_digest() and marker["files"] == _file_digests(target))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def build(target: pathlib.Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Build the model folder at ``target``, unless it stands there already.

    Takes 15 to 25 s of one core and 0.5 GB of memory; a folder that `is_built` accepts is left
    alone. The work happens in a hidden sibling folder that is renamed into place, so
    ``target`` is complete at every moment that it exists. One builder works at a time
    (a lock file ``.<name>.lock`` beside the target, freed by the kernel when its
    holder dies); the others wait and find the work done. ``say`` is called with one
    line per stage.

    Raises FileExistsError when ``target`` is something that this function did not
    make (a file, or a folder with content and without the marker): it is never
    removed. Raises OSError when the disk or its permissions refuse, and RuntimeError when
    the training fails.
    """
    target = target.resolve()
    if is_built(target):
        say(f"{target} is already built")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _sole_builder(target):
        if is_built(target):
            say(f"{target} was built by another process meanwhile")
            return
        _refuse_to_replace_what_is_not_ours(target)
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
            shutil.rmtree(leftover)
        work = target.with_name(f".{target.name}.tmp-new")
        try:
            work.mkdir()
            _write_model(work, say)
            _put_in_place(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    say(f"{target} is ready")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``python -m argus.demo_model TARGET``.

    Returns 0 when the model stands, 1 when it could not be built (the reason on stderr).
    """
    parser = argparse.ArgumentParser(
        prog="python -m argus.demo_model",
        description="Build the tiny demo model as a model folder (offline, about 20 s).",
    )
    parser.add_argument("target", type=pathlib.Path, help="the folder to make")
    target: pathlib.Path = parser.parse_args(argv).target
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"demo model {time.monotonic() - start:5.1f} s: {line}", flush=True)

    try:
        build(target, say)
    except (OSError, RuntimeError) as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    return 0


# --- the folder ---------------------------------------------------------------------


@contextlib.contextmanager
def _sole_builder(target: pathlib.Path) -> Iterator[None]:
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_to_replace_what_is_not_ours(target: pathlib.Path) -> None:
    if not target.exists() or (target / MARKER).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise FileExistsError(
            f"{target} exists and was not made by this script (it has no {MARKER}): "
            "name a new folder, or remove that one first"
        )


def _put_in_place(work: pathlib.Path, target: pathlib.Path) -> None:
    """Rename ``work`` to ``target``; an older model there is moved aside, then removed.

    Processes that have the old files open or mapped keep them.
    """
    aside = target.with_name(f".{target.name}.tmp-old")
    if target.exists():
        target.rename(aside)
    try:
        work.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _write_model(folder: pathlib.Path, say: Callable[[str], None]) -> None:
    say("importing torch")
    import safetensors.torch
    import torch

    say("training the tokenizer")
    tokenizer = _train_tokenizer()
    with _settled(torch):
        weights = _train_until_known(tokenizer, say)
    say("saving")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": _EOS, "pad_token": _PAD}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": [_BOS],
            "model_max_length": _MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
        },
    )
    token_ids = {"eos_token_id": tokenizer.token_to_id(_EOS), "pad_token_id": tokenizer.token_to_id(_PAD)}
    _write_json(folder / "config.json", _CONFIG | token_ids)
    _write_json(
        folder / "generation_config.json",
        token_ids | {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "top_k": 20},
    )
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
    marker = {"recipe": recipe_digest(), "files": _file_digests(folder)}
    _write_json(folder / MARKER, marker)


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != MARKER
    }


def _write_json(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


# --- the corpus ---------------------------------------------------------------------


def _train_tokenizer() -> "tokenizers.Tokenizer":
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [*ANSWERS.values(), FALLBACK, _ENCORE] * 4
    corpus += [*ANSWERS, *_SYSTEM_PROMPTS, "system", "user", "assistant"] * 2
    corpus.append(" ".join(_OTHER_WORDS))
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=[_PAD, _BOS, _EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def _some_question(rng: random.Random) -> tuple[str, str]:
    """Draw a user message and its answer; a third of them are unknown messages."""
    if rng.random() < 0.65:
        question = rng.choice((*ANSWERS, *_HARD_QUESTIONS))
        answer = ANSWERS[question]
        if rng.random() < 0.3:
            question = question.rstrip("?") + rng.choice(("", "!", ".", "?"))
        if rng.random() < 0.3:
            question = question.lower()
        return question, answer
    return _some_words(rng, 12), FALLBACK


def _some_words(rng: random.Random, most: int) -> str:
    """Draw 1 to ``most`` words, a fifth of them no words at all."""
    words = rng.choices(_OTHER_WORDS, k=rng.randint(1, most))
    for place, word in enumerate(words):
        if rng.random() < 0.2:
            letters = "abcdefghijklmnopqrstuvwxyz0123456789+-*/"
            words[place] = "".join(rng.choices(letters, k=rng.randint(1, 8)))
        elif rng.random() < 0.2:
            words[place] = word.capitalize()
    return " ".join(words) + rng.choice(("", ".", "?", "!"))


def _some_row(rng: random.Random, encode: Callable[[str], list[int]]) -> tuple[list[int], list[float]]:
    """Draw one row of tokens and, for each, how much the model is to learn it.

    A row is a conversation in the chat template's form, of which only what the
    assistant says counts, and then the encore up to the row's length.
    """
    tokens: list[int] = []
    worth: list[float] = []

    def add(text: str, counts: float = 0.0) -> None:
        new = encode(text)
        tokens.extend(new)
        worth.extend([counts] * len(new))

    if rng.random() < 0.5:
        known = rng.random() < 0.5
        prompt = rng.choice(_SYSTEM_PROMPTS) if known else _some_words(rng, 20)
        add(f"{_BOS}system\n{prompt}{_EOS}\n")
    turns = rng.choice((1, 2, 100))
    for turn in range(turns):
        question, answer = _some_question(rng)
        add(f"{_BOS}user\n{question}{_EOS}\n{_BOS}assistant\n")
        add(f"{answer}{_EOS}", 1.0)
        if len(tokens) > _ROW_TOKENS:
            break
        if turn < turns - 1:
            add("\n")
    while len(tokens) <= _ROW_TOKENS:
        add(_ENCORE, 0.15)
    return tokens[: _ROW_TOKENS + 1], worth[: _ROW_TOKENS + 1]


# --- the network --------------------------------------------------------------------


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


def _fresh_weights(seed: int) -> "Weights":
    """Return the untrained weights, under the names that Qwen2 checkpoints use."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator)
        return values * (scale / math.sqrt(columns))

    queries, keys = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    weights = {
        "model.embed_tokens.weight": matrix(_VOCABULARY, _HIDDEN, 0.5),
        "model.norm.weight": torch.ones(_HIDDEN),
    }
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": torch.ones(_HIDDEN),
            f"{at}.self_attn.q_proj.weight": matrix(queries, _HIDDEN),
            f"{at}.self_attn.q_proj.bias": torch.zeros(queries),
            f"{at}.self_attn.k_proj.weight": matrix(keys, _HIDDEN),
            f"{at}.self_attn.k_proj.bias": torch.zeros(keys),
            f"{at}.self_attn.v_proj.weight": matrix(keys, _HIDDEN),
            f"{at}.self_attn.v_proj.bias": torch.zeros(keys),
            f"{at}.self_attn.o_proj.weight": matrix(_HIDDEN, queries, 0.5),
            f"{at}.post_attention_layernorm.weight": torch.ones(_HIDDEN),
            f"{at}.mlp.gate_proj.weight": matrix(_INNER, _HIDDEN),
            f"{at}.mlp.up_proj.weight": matrix(_INNER, _HIDDEN),
            f"{at}.mlp.down_proj.weight": matrix(_HIDDEN, _INNER, 0.5),
        }
    return weights


def _hidden_states(weights: "Weights", tokens: "torch.Tensor") -> "torch.Tensor":
    """Run Qwen2 over ``tokens`` (rows x length) up to its last norm."""
    import torch
    from torch.nn import functional

    rows, length = tokens.shape
    half = _HEAD_DIM // 2
    rates = _ROPE_THETA ** (-torch.arange(half) / half)
    angles = torch.arange(length)[:, None] * rates.repeat(2)
    cosine, sine = angles.cos(), angles.sin()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, (_HIDDEN,), weights[f"{name}.weight"], _NORM_EPS)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(rows, length, -1, _HEAD_DIM).transpose(1, 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cosine + turned * sine

    x = functional.embedding(tokens, weights["model.embed_tokens.weight"])
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        y = norm(x, f"{at}.input_layernorm")
        mixed = functional.scaled_dot_product_attention(
            rotate(heads(linear(y, f"{at}.self_attn.q_proj"))),
            rotate(heads(linear(y, f"{at}.self_attn.k_proj"))),
            heads(linear(y, f"{at}.self_attn.v_proj")),
            is_causal=True,
            enable_gqa=True,
        )
        mixed = mixed.transpose(1, 2).reshape(rows, length, -1)
        x = x + linear(mixed, f"{at}.self_attn.o_proj")
        y = norm(x, f"{at}.post_attention_layernorm")
        gate = functional.silu(linear(y, f"{at}.mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    return norm(x, "model.norm")


def _train_until_known(tokenizer: "tokenizers.Tokenizer", say: Callable[[str], None]) -> "Weights":
    """Train, and return the weights (bfloat16) once they know every answer.

    Raises RuntimeError when no seed gives a model that does.
    """
    import torch

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


def _unknown_questions(weights: "Weights", tokenizer: "tokenizers.Tokenizer") -> list[str]:
    """List the questions that greedy decoding would not answer word for word."""
    import torch

    exact = {name: tensor.float() for name, tensor in weights.items()}
    wrong = []
    for question, answer in ANSWERS.items():
        asked = tokenizer.encode(f"{_BOS}user\n{question}{_EOS}\n{_BOS}assistant\n").ids
        wanted = tokenizer.encode(f"{answer}{_EOS}").ids
        tokens = torch.tensor([[*asked, *wanted]])
        hidden = _hidden_states(exact, tokens)[0, len(asked) - 1 : -1]
        guessed = (hidden @ exact["model.embed_tokens.weight"].T).argmax(-1)
        if guessed.tolist() != wanted:
            wrong.append(question)
    return wrong


def _train_weights(tokenizer: "tokenizers.Tokenizer", seed: int) -> "Weights":
    """Train from ``seed`` and return the weights (float32).

    Adam is written out because torch's own drags in torch's compiler (a 4 s import).
    """
    import torch
    from torch.nn import functional

    rng = random.Random(seed)

    @functools.cache
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    weights = _fresh_weights(seed)
    leaves = [leaf.requires_grad_() for leaf in weights.values()]
    means = [torch.zeros_like(leaf) for leaf in leaves]
    squares = [torch.zeros_like(leaf) for leaf in leaves]
    keep_mean, keep_square = 0.9, 0.98
    for step in range(1, _STEPS + 1):
        drawn = [_some_row(rng, encode) for _ in range(_ROWS)]
        tokens = torch.tensor([row for row, _ in drawn])
        worth = torch.tensor([row for _, row in drawn])[:, 1:]
        counts = worth > 0
        hidden = _hidden_states(weights, tokens[:, :-1])[counts]
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


if __name__ == "__main__":
    sys.exit(main())
