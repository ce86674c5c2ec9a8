"""`argus rollback`: take a model back to what its file said at an earlier commit, through the API."""

from __future__ import annotations

from urllib.parse import quote

from argus.client import Client
from argus.remote import MODELS, model_key


def roll_back(client: Client, model: str, to: str | None, reason: str | None) -> int:
    """Roll back the model that goes by this key, public name or suffix. Gives the exit status. Raises ClientError."""
    key = model_key(client, model)
    address = f"{MODELS}/{quote(key)}"
    body = {name: value for name, value in (("to", to), ("reason", reason)) if value is not None}
    before = client.get(address)["model"]["commit"]
    done = client.post(f"{address}/rollback", body)
    said = "nothing to do: its file says that already, since" if done["commit"] == before else "rolled back by"
    print(f"{key}: {said} commit {done['commit']} ({done['state']})")
    return 0
