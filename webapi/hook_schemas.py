"""What goes over the wire for webhooks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapi.schemas import Answer


class HookTaken(Answer):
    """What was made of a webhook."""

    status: Literal["taken", "ignored", "pong"] = Field(
        description="taken: the reconciler looks at the branch now. ignored: another branch. pong: a trial (ping)."
    )
