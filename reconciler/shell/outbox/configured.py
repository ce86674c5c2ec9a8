"""Who is told what, and how, as the configuration has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import timedelta

from reconciler.core.announcements import Audience, StatusRules, Subscription
from reconciler.core.delivery import Patience
from reconciler.settings import STATUS_TOKEN, Settings
from reconciler.shell.ledger import Outbox
from reconciler.shell.outbox.courier import Courier
from reconciler.shell.outbox.destination import Destination
from reconciler.shell.outbox.statuses import CommitStatuses
from reconciler.shell.outbox.webhooks import Webhook

COMMIT_PAGE = "/api/v2/serve/commits/{sha}"


def audience(settings: Settings) -> Audience:
    """Say who is to be told of what."""
    wanted, public = settings.spec_repo.statuses, settings.api.public_url
    rules = None
    if wanted.provider is not None:
        page = f"{public}{COMMIT_PAGE}" if public else None
        rules = StatusRules(wanted.context, wanted.also_per, wanted.target_url or page)
    subscriptions = (
        Subscription(
            each.name,
            None if each.events is None else frozenset(each.events),
            None if each.users is None else frozenset(each.users),
        )
        for each in settings.notifications
    )
    return Audience(rules, tuple(subscriptions), public or "urn:argus")


def destinations(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Destination]:
    """Give where announcements go."""
    wanted, home = settings.spec_repo.statuses, settings.home
    found: list[Destination] = []
    if wanted.provider is not None and wanted.base_url and wanted.repository:
        found.append(
            CommitStatuses(
                provider=wanted.provider,
                base_url=wanted.base_url,
                repository=wanted.repository,
                branch=settings.spec_repo.branch,
                token=environ.get(STATUS_TOKEN) or None,
                token_file=home / wanted.token_file if wanted.token_file else None,
                ca_file=home / wanted.ca_file if wanted.ca_file else None,
            )
        )
    found += [
        Webhook(
            name=Subscription(each.name).destination,
            url=each.url,
            secret_file=home / each.secret_file,
            ca_file=home / each.ca_file if each.ca_file else None,
            allow_private=each.allow_private,
        )
        for each in settings.notifications
    ]
    return found


def courier(settings: Settings, outbox: Outbox, is_wanted: Callable[[], bool]) -> Courier:
    """Make the courier that delivers what the configuration names."""
    wanted = settings.outbox
    return Courier(
        outbox,
        destinations(settings),
        is_wanted=is_wanted,
        timeout_s=wanted.timeout_s,
        concurrency=wanted.concurrency,
        patience=Patience(wanted.attempts, timedelta(seconds=wanted.give_up_after_s)),
    )
