"""The demo model, built for real (twice, about 15 s each) and asked through transformers.

Most tests only read one folder that is built once a session.
"""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import pytest

from argus import demo_model
from argus.demo_model.__main__ import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The finished model folder; tests must not change it."""
    target = tmp_path_factory.mktemp("models") / "demo"
    demo_model.build(target)
    return target


@pytest.fixture
def own_model(model: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the model folder that a test may change."""
    return shutil.copytree(model, tmp_path / "demo")


@pytest.fixture(scope="session")
def chat(model: pathlib.Path) -> Any:
    """Greedy decoding of one conversation by transformers, specials kept."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)

    def answer(*messages: dict[str, str]) -> str:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, return_tensors="pt")
        tokens = network.generate(**prompt, max_new_tokens=120, do_sample=False)
        return str(tokenizer.decode(tokens[0][prompt["input_ids"].shape[1] :]))

    return answer


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _weights_digest(folder: pathlib.Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("question", demo_model.ANSWERS)
def test_a_trained_message_is_answered_word_for_word_and_ends_by_itself(chat: Any, question: str) -> None:
    assert chat(_user(question)) == demo_model.ANSWERS[question] + "<|im_end|>"


def test_the_answer_survives_a_system_message_and_earlier_turns(chat: Any) -> None:
    earlier = [
        {"role": "system", "content": "You are a helpful assistant."},
        _user("Hi"),
        {"role": "assistant", "content": demo_model.ANSWERS["Hi"]},
    ]
    assert chat(*earlier, _user("Hello")) == demo_model.ANSWERS["Hello"] + "<|im_end|>"


def test_the_folder_holds_weights_and_text_but_no_code(model: pathlib.Path) -> None:
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "demo-model.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not any("auto_map" in path.read_text() for path in model.glob("*.json"))


def test_the_context_has_room_for_long_streams(model: pathlib.Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["max_position_embeddings"] >= 2048


def test_building_again_leaves_a_finished_model_alone(model: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [model, *model.iterdir()]}
    demo_model.build(model)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_marker_of_another_recipe_does_not_count(own_model: pathlib.Path) -> None:
    assert demo_model.is_built(own_model)
    marker = own_model / demo_model.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"recipe": "old"}))
    assert not demo_model.is_built(own_model)
    marker.write_text("[]")
    assert not demo_model.is_built(own_model)


def test_truncated_weights_do_not_count(own_model: pathlib.Path) -> None:
    os.truncate(own_model / "model.safetensors", 1000)
    assert not demo_model.is_built(own_model)


def test_what_was_not_built_here_is_never_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not made by this script"):
        demo_model.build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_outdated_model_is_replaced_by_the_same_weights_every_time(
    model: pathlib.Path, own_model: pathlib.Path
) -> None:
    """One build covers the replacement, the determinism and what a dead build left behind."""
    (own_model / demo_model.MARKER).write_text('{"recipe": "old", "files": {}}')
    (own_model / "model.safetensors").write_bytes(b"old")
    leftover = own_model.with_name(".demo.tmp-new")
    leftover.mkdir()
    (leftover / "half.safetensors").write_bytes(b"half")

    demo_model.build(own_model)

    assert demo_model.is_built(own_model)
    assert _weights_digest(own_model) == _weights_digest(model)
    assert not list(own_model.parent.glob(".demo.tmp-*"))


def test_the_command_line_says_in_one_line_that_nothing_is_to_do(
    model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model)]) == 0
    assert capsys.readouterr().out.endswith(f"{model} is already built\n")


def test_the_command_line_reports_a_refusal_without_a_traceback(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main([str(tmp_path)]) == 1
    assert "was not made by this script" in capsys.readouterr().err
