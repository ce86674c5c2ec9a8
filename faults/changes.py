"""What happens to other models, and to A itself, while A is listened to."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from faults.report import GAP_TIMES, Expectation
from faults.stage import ENGINE, USER, Act, Stage

QUIET_S = 120.0
"""About as long as the longest act that is compared with it: the longest of many gaps grows with their number."""
ENDLESS = 4_500_000
"""A context whose KV cache is larger than what an engine here is given, so that its start runs out of memory.

The demo model keeps 256 bytes a token (2 layers x key and value x 1 head x 32 x 2 bytes): 1.07 GiB of 1.
"""


def quiet(stage: Stage) -> None:
    """Let nothing happen, for comparison, and look at A as the other acts look at what they wait for."""
    began = time.monotonic()
    stage.wait(lambda: stage.is_running("a") and time.monotonic() > began + QUIET_S, lambda: "A does not run")
    gaps = [one.gap for one in stage.audience.requests if began <= one.gap_at]
    stage.quiet_gap_s = max(gaps, default=None)


def beside(heal_s: float) -> Expectation:
    """Expect that nobody who listens to A notices what happens to another model."""
    return Expectation(heal_s=heal_s, gap_times=GAP_TIMES)


def add(name: str) -> Act:
    """Add a model."""

    def run(stage: Stage) -> None:
        stage.create(name)
        stage.until_running(name)
        assert stage.says(name), f"{name} says nothing"

    return Act(f"add-{name}", f"add {name.upper()}", run, beside(180))


def scale(name: str, to: int, what: str, expected: Expectation) -> Act:
    """Change how many replicas a model has: those that were there stay, or are all that stays."""

    def run(stage: Stage) -> None:
        before = stage.replicas(name)
        stage.patch(name, num_replicas=to)
        stage.until_running(name)
        after = stage.replicas(name)
        assert before < after or after < before, "scaling replaced a replica"

    return Act(f"scale-{name}-{to}", what, run, expected)


def update(name: str, sequences: int, what: str, expected: Expectation) -> Act:
    """Change what a model's engine is built from, with room for the new version beside the old."""

    def run(stage: Stage) -> None:
        before = stage.replicas(name)
        stage.patch(name, engine_kwargs={"max_num_seqs": sequences})
        stage.until_running(name)
        assert not before & stage.replicas(name), "the old replica is still there"

    return Act(f"update-{name}", what, run, expected)


def break_b(stage: Stage) -> None:
    """Point B at a model whose KV cache cannot fit, and see the old version go on with the reason said."""
    before = stage.replicas("b")
    large = stage.house.home / "private" / "hf" / "endless"
    if not large.exists():
        shutil.copytree(large.with_name("demo"), large)  # to train another takes minutes beside eight clients
        config = large / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": ENDLESS}))
    key = stage.keys["b"]
    _kept(stage).write_text(stage.platform.git("show", f"main:users/{USER}/b.yaml"))
    stage.create("b", model_source="$HOME/common/hf/endless", engine_kwargs={**ENGINE, "max_model_len": ENDLESS})
    assert stage.keys["b"] == key, "an update made another model"
    stage.until("b", lambda model: bool(model["error_summary"]) and model["state"] == "RUNNING")
    said = stage.model("b")["error_summary"]
    assert "KV cache" in said, f"the reason does not name the KV cache: {said}"
    assert before == stage.replicas("b"), "B's replicas were replaced"
    assert stage.says("b"), "B says nothing"


def roll_back_b(stage: Stage) -> None:
    """Take it back: B's file is again what it was."""
    before = stage.replicas("b")
    stage.write("b", _kept(stage).read_bytes())
    stage.until_running("b")
    assert before == stage.replicas("b"), "B's replicas were replaced"


def _kept(stage: Stage) -> Path:
    """Say where B's file is kept as it was before it was broken."""
    return stage.house.folder / "b.yaml"


def folder_deleted(stage: Stage) -> None:
    """Delete C's folder: C goes on; then C's replica dies, and the reason is said until the folder is back."""
    folder = stage.house.home / "private" / "users" / USER / "c"
    aside = folder.with_name("aside")
    folder.rename(aside)
    time.sleep(3)
    assert stage.says("c"), "C says nothing"
    assert stage.model("c")["state"] == "RUNNING", "C does not go on without its folder"
    try:
        stage.patch("c", engine_kwargs={"max_num_seqs": 24})
        stage.until("c", lambda model: bool(model["error_summary"]))
        seen = stage.model("c")
        assert "does not exist" in seen["error_summary"], seen["error_summary"]
        assert seen["state"] == "RUNNING", "the update without a folder took C down"
        assert stage.says("c"), "C says nothing"
    finally:
        aside.rename(folder)
        stage.patch("c", engine_kwargs={"max_num_seqs": None})
    stage.until_running("c")


def add_c(stage: Stage) -> None:
    """Add a model from a folder of its owner's own."""
    demo = stage.house.home / "private" / "hf" / "demo"
    shutil.copytree(demo, stage.house.home / "private" / "users" / USER / "c")
    stage.create("c", model_source="$HOME/c")
    stage.until_running("c")
    assert stage.says("c"), "C says nothing"


def delete(name: str) -> Act:
    """Delete a model."""

    def run(stage: Stage) -> None:
        stage.delete(name)
        stage.until(name, lambda model: bool(model["state"] == "DELETED"))
        stage.wait(lambda: not stage.replicas(name), lambda: f"{name} has replicas: {stage.replicas(name)}")

    return Act(f"delete-{name}", f"delete {name.upper()}", run, beside(60))


def all_write(stage: Stage) -> None:
    """Have every writer of the crowd write at once."""
    began = time.monotonic()
    stage.writers.all_at_once()

    def all_have() -> bool:
        return len({one.writer for one in list(stage.writers.writes) if one.began >= began}) >= stage.writers.number

    stage.wait(all_have, lambda: "not every writer has its answer")
    stage.until_passes()


ACTS = (
    Act("quiet", "nothing, for comparison", quiet, Expectation(heal_s=QUIET_S + 30)),
    add("b"),
    scale("b", 2, "scale B up to 2", beside(180)),
    scale("b", 1, "scale B down to 1", beside(60)),
    update("b", 24, "update B (surge)", beside(240)),
    Act("break-b", "an update of B whose KV cache cannot fit", break_b, beside(240)),
    Act("roll-back-b", "roll B back", roll_back_b, beside(30)),
    Act("add-c", "add C", add_c, beside(180)),
    Act("folder-deleted", "C's folder is deleted, C is updated, the folder is back", folder_deleted, beside(60)),
    delete("b"),
    delete("c"),
    Act("all-write", "the whole crowd writes at once", all_write, beside(60)),
    update("a", 48, "update A itself (surge)", Expectation(heal_s=240)),
    scale("a", 2, "scale A itself up to 2", Expectation(heal_s=180)),
)
