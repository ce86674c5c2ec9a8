"""Delivering what is in the ledger's outbox: commit statuses to a git provider, notifications to whoever subscribed.

`courier` is the thread that does it, `statuses` and `webhooks` make requests of announcements, `sending` sends one
request, `secrets` reads what requests are signed or authorized with. What follows from an answer is decided in
`core.delivery`. None of this is a pass's business: the loop never waits for it, and nothing here changes what runs.
"""

from reconciler.shell.outbox.configured import audience, courier
from reconciler.shell.outbox.courier import Courier

__all__ = ["Courier", "audience", "courier"]
