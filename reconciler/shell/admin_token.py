"""The admin's token: given in the environment, or kept in the state folder by whoever made it (`argus up`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from reconciler.errors import SettingsError
from reconciler.settings import Settings

VARIABLE = "ARGUS_ADMIN_TOKEN"


def token_file(home: Path) -> Path:
    """Say where the admin's token lies in the state folder `home` (mode 0600)."""
    return home / "admin-token"


def admin_token(settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """Give the admin's token: ARGUS_ADMIN_TOKEN where that is set, else the content of `<home>/admin-token`.

    Raises SettingsError where there is neither, or one that no HTTP header can carry. The message never holds it.
    """
    given = environ.get(VARIABLE, "").strip()
    path = token_file(settings.home)
    if not given:
        try:
            given = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"no admin token: set {VARIABLE}, or keep one in {path} ({error})") from None
    if not given or not given.isascii() or not given.isprintable() or " " in given:
        raise SettingsError(f"the admin token in {VARIABLE} or {path} must be printable ASCII without spaces")
    return given
