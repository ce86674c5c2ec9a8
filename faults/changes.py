"""What happens to other models, and to A itself, while A is listened to."""

from __future__ import annotations

import time

from faults.report import Expectation
from faults.stage import ENGINE, Act, Stage

QUIET_S = 20.0
TOO_LONG = 1_000_000
"""A context that no engine on this machine has the memory for, so its start fails."""


def quiet(_stage: Stage) -> None:
    """Let nothing happen, for comparison."""
    time.sleep(QUIET_S)


def add(name: str) -> Act:
    """Add a model."""

    def run(stage: Stage) -> None:
        stage.create(name)
        stage.until_running(name)

    return Act(f"add-{name}", f"add {name.upper()}", run, Expectation(heal_s=180))


def scale(name: str, to: int) -> Act:
    """Change how many replicas a model has."""

    def run(stage: Stage) -> None:
        stage.patch(name, num_replicas=to)
        stage.until_running(name)

    return Act(f"scale-{name}-{to}", f"scale {name.upper()} to {to}", run, Expectation(heal_s=180))


def update(name: str, sequences: int) -> Act:
    """Change what a model's engine is built from, with room for the new version beside the old."""

    def run(stage: Stage) -> None:
        stage.patch(name, engine_kwargs={"max_num_seqs": sequences})
        stage.until_running(name)

    return Act(f"update-{name}", f"update {name.upper()} (surge)", run, Expectation(heal_s=240))


def break_b(stage: Stage) -> None:
    """Ask for a version of B that no engine starts with, and see the old one go on."""
    before = stage.replicas("b")
    stage.patch("b", engine_kwargs={"max_model_len": TOO_LONG})
    stage.until("b", lambda model: bool(model["error_summary"]) and model["state"] == "RUNNING")
    assert before == stage.replicas("b"), "B's replicas were replaced"


def roll_back_b(stage: Stage) -> None:
    """Take it back."""
    before = stage.replicas("b")
    stage.patch("b", engine_kwargs=ENGINE)
    stage.until_running("b")
    assert before == stage.replicas("b"), "B's replicas were replaced"


def delete(name: str) -> Act:
    """Delete a model."""

    def run(stage: Stage) -> None:
        stage.delete(name)
        stage.until(name, lambda model: bool(model["state"] == "DELETED"))

    return Act(f"delete-{name}", f"delete {name.upper()}", run, Expectation(heal_s=60))


ACTS = (
    Act("quiet", "nothing, for comparison", quiet, Expectation(heal_s=60)),
    add("b"),
    scale("b", 2),
    scale("b", 1),
    update("b", 24),
    Act("break-b", "an update of B that cannot start", break_b, Expectation(heal_s=180)),
    Act("roll-back-b", "roll B back", roll_back_b, Expectation(heal_s=20)),
    add("c"),
    delete("b"),
    delete("c"),
    update("a", 48),
)
