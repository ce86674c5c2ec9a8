"""What an action means to the people who asked for it: one word for each, from the plan and what ran before.

The only place where a plan's actions become words of a preview; a new action is a type error here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from reconciler.core.actions import Action, Hold, Idle, Keep, Refuse, Remove, Scale, Settle, Start, Wait
from reconciler.core.effects import Effect
from reconciler.core.entities import Record, State


@dataclass(frozen=True, slots=True)
class Outcome:
    """An effect, and what more there is to say of it.

    `downtime` says whether a replacement stops the old engines before the new ones answer; None for all else.
    """

    effect: Effect
    message: str | None = None
    downtime: bool | None = None


NOTHING = Outcome(Effect.NONE)


def outcome(action: Action, before: Record | None, *, touched: bool) -> Outcome:  # noqa: PLR0911, PLR0912  one a case
    """Say what `action` means for a model that `before` is known of, None for one that is new.

    `touched` says whether the model's file has a commit that the record does not know. What goes on waiting, or goes
    on failing, in a file that nobody touched is no effect of a change.
    """
    match action:
        case Keep():
            return Outcome(Effect.UPDATE) if touched else NOTHING
        case Start(is_adopted=True):
            return NOTHING  # it runs, and only the ledger does not know
        case Start(estimate_s=estimate_s, downtime=why_down):
            loads = f"loads in about {estimate_s} s" if estimate_s else None
            if before is None:
                return Outcome(Effect.CREATE, loads)
            if before.applied is None:
                return Outcome(Effect.START, loads)
            return Outcome(Effect.ROLL, why_down or loads, downtime=why_down is not None)
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
        case Hold(reason=reason):
            return Outcome(Effect.BLOCK, reason) if touched else NOTHING
        case Idle():
            return NOTHING
        case Remove():
            going = before is None or before.state in {State.DELETING, State.DELETED}
            return NOTHING if going else Outcome(Effect.REMOVE)
        case _:
            assert_never(action)
