"""The demo and test model: a tiny, real language model built on the spot.

Here lives the recipe: a corpus of a few sentences with its tokenizer (`corpus`), a small Qwen2 (`network`), and how it
is trained from a fixed seed (`training`). The result is a folder such as any model hub hands out (`folder`), with
safetensors and no code, which vLLM serves as a chat model and, with `runner: pooling` and `convert: embed`, as an
embedding model. Nothing is downloaded. How a model is served does not belong here.
"""

from argus.demo_model.corpus import ANSWERS
from argus.demo_model.folder import MARKER, build, is_built

__all__ = ["ANSWERS", "MARKER", "build", "is_built"]
