"""The folder: the model as a hub would hand it out, built once, put in place whole, and known by its recipe."""

# ruff: noqa: PLC0415 - torch and tokenizers take seconds to import, and argus must import at once

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Final

from argus.demo_model.corpus import BOS, CHAT_TEMPLATE, EOS, PAD, train_tokenizer
from argus.demo_model.network import CONFIG, MAX_POSITIONS
from argus.demo_model.training import train_until_known

MARKER: Final = "demo-model.json"
"""The file that names the recipe of a finished folder; it is written last."""


@functools.cache
def recipe_digest() -> str:
    """Return the SHA-256 (hex) that names the recipe: that of this package's files.

    Any edit makes a new recipe, so that none can be forgotten; it costs one rebuild.
    """
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    digests = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


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

    say("training the tokenizer")
    tokenizer = train_tokenizer()
    weights = train_until_known(tokenizer, say)
    say("saving")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": EOS, "pad_token": PAD}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": [BOS],
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    token_ids = {"eos_token_id": tokenizer.token_to_id(EOS), "pad_token_id": tokenizer.token_to_id(PAD)}
    _write_json(folder / "config.json", CONFIG | token_ids)
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
