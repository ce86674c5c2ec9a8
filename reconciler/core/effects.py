"""What an action means to the people who asked for it: one closed word for each, from the plan and what ran before.

The only place where a plan's actions become words of a preview; a new action is a type error here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from reconciler.core.entities import Record, State
from reconciler.core.plan import Action, Idle, Keep, Refuse, Remove, Scale, Settle, Start, Wait


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
    FAIL = "fail"
    """The model's folder cannot be served; whatever runs of the model goes on."""
    HOLD = "hold"
    """The version failed before and waits for its next try; whatever runs of the model goes on."""
    FALL_BACK = "fall_back"
    """The version failed: what answered last takes its place, or nothing does."""
    NONE = "none"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An effect, and what more there is to say of it.

    `downtime` says whether a replacement stops the old engines before the new ones answer; None for all else.
    """

    effect: Effect
    message: str | None = None
    downtime: bool | None = None


NOTHING = Outcome(Effect.NONE)


def outcome(action: Action, before: Record | None, *, touched: bool) -> Outcome:  # noqa: PLR0911  one return a case
    """Say what `action` means for a model that `before` is known of, None for one that is new.

    `touched` says whether the model's file has a commit that the record does not know. What goes on waiting, or goes
    on failing, in a file that nobody touched is no effect of a change.
    """
    match action:
        case Keep():
            return Outcome(Effect.UPDATE) if touched else NOTHING
        case Start(workload):
            if before is None:
                return Outcome(Effect.CREATE)
            if before.applied is None:
                return Outcome(Effect.START)
            return Outcome(Effect.ROLL, downtime=not workload.surge)
        case Scale():
            return Outcome(Effect.SCALE)
        case Settle(workload):
            why = before.error_summary if before else None
            if before is not None and before.applied != workload:
                return Outcome(Effect.FALL_BACK, why)
            return Outcome(Effect.HOLD, why) if touched else NOTHING
        case Refuse(reason=reason):
            return Outcome(Effect.FAIL, reason) if touched else NOTHING
        case Wait(reason=reason):
            return Outcome(Effect.WAIT, reason) if touched else NOTHING
        case Idle():
            return NOTHING
        case Remove():
            going = before is None or before.state in {State.DELETING, State.DELETED}
            return NOTHING if going else Outcome(Effect.REMOVE)
        case _:
            assert_never(action)
