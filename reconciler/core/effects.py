"""The words for what a change would do to a model: a closed set, for previews and for those who read them."""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """What would happen to one model."""

    CREATE = "create"
    """A model that is new starts."""
    START = "start"
    """A model that is known and does not run starts: room was made, or its file was put right."""
    UPDATE = "update"
    """The file changes and the engines go on: only what no engine is built from is new."""
    SCALE = "scale"
    """More or fewer replicas; those that stay go on."""
    ROLL = "roll"
    """New engines take the place of the old."""
    REMOVE = "remove"
    """The file is gone, and the model with it."""
    REJECT = "reject"
    """The file cannot be used; whatever runs of the model goes on."""
    WAIT = "wait"
    """There is no room; whatever runs of the model goes on."""
    BLOCK = "block"
    """It cannot be done as things are, however long one waits; whatever runs of the model goes on."""
    FAIL = "fail"
    """The model's folder cannot be served; whatever runs of the model goes on."""
    HOLD = "hold"
    """The version failed before and waits for its next try; whatever runs of the model goes on."""
    WITHHOLD = "withhold"
    """It would not count for now: a brake, a freeze, a suspension; whatever runs of the model goes on."""
    FALL_BACK = "fall_back"
    """The version failed: what answered last takes its place, or nothing does."""
    NONE = "none"
    """Nothing."""
