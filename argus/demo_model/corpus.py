"""What the demo model is to know: its sentences, the tokenizer of 512 tokens, and the rows that it is trained on."""

# ruff: noqa: PLC0415 - torch and tokenizers take seconds to import, and argus must import at once

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import tokenizers

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

BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n'"
    " + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

VOCABULARY: Final = 512
ROW_TOKENS: Final = 160


def train_tokenizer() -> tokenizers.Tokenizer:
    """Make the byte-level BPE tokenizer of `VOCABULARY` tokens."""
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
            vocab_size=VOCABULARY,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def some_row(rng: random.Random, encode: Callable[[str], list[int]]) -> tuple[list[int], list[float]]:
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
        add(f"{BOS}system\n{prompt}{EOS}\n")
    turns = rng.choice((1, 2, 100))
    for turn in range(turns):
        question, answer = _some_question(rng)
        add(f"{BOS}user\n{question}{EOS}\n{BOS}assistant\n")
        add(f"{answer}{EOS}", 1.0)
        if len(tokens) > ROW_TOKENS:
            break
        if turn < turns - 1:
            add("\n")
    while len(tokens) <= ROW_TOKENS:
        add(_ENCORE, 0.15)
    return tokens[: ROW_TOKENS + 1], worth[: ROW_TOKENS + 1]


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
