"""The demo: a user, a token, a tiny model, asked for through the API as anybody would, and one real chat.

It is made once. Whether that has happened is told by `<home>/demo-token`, written last: a user who deletes the model
does not find it back after the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argus.client import Client
from argus.errors import ClientError
from reconciler.front.files import write_private

USER = "demo"
SUFFIX = "hello"
GREETING = "Hello"
SPEC = f"""\
# The demo that `argus up` asks for at its first start: a tiny model that runs without a GPU.
model_id: {SUFFIX}
model_source: $HOME/common/hf/demo
num_replicas: 1
gpus_per_replica: 1
engine_kwargs:
  max_model_len: 256
  max_num_seqs: 32
"""

_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Demo:
    """Makes and watches the demo model. Every method raises ClientError where the API does not answer or refuses."""

    state: Path
    api_url: str
    openai_url: str
    admin_token: str

    @property
    def token_file(self) -> Path:
        """Where the demo user's token lies (mode 0600)."""
        return self.state / "demo-token"

    def was_made(self) -> bool:
        """Say whether the demo was made once, in this state folder."""
        return self.token_file.exists()

    def make(self) -> None:
        """Make user, token and model; what is there already stays."""
        admin = Client(self.api_url, self.admin_token)
        with _already_there():
            admin.post("/api/v2/users", {"user_id": USER})
        token = self._new_token(admin)
        with _already_there():
            Client(self.api_url, token).post("/api/v2/serve/models", yaml=SPEC, headers={"If-None-Match": "*"})
        write_private(self.token_file, token + "\n")

    def model(self) -> dict[str, Any] | None:
        """Give the demo model as the API shows it; None where its user deleted it."""
        items = self._client().get("/api/v2/serve/models?limit=100")["items"]
        return next((item for item in items if item["model_id_suffix"] == SUFFIX), None)

    def renew_token(self) -> None:
        """Have a new token issued where the one that is kept is worth nothing any more (a new ledger, or expired)."""
        try:
            self._client().get("/api/v2/serve/models?limit=1")
        except ClientError as error:
            if error.status != 401:
                raise
            admin = Client(self.api_url, self.admin_token)
            with _already_there():
                admin.post("/api/v2/users", {"user_id": USER})
            write_private(self.token_file, self._new_token(admin) + "\n")

    def chat(self, model: str, *, timeout_s: float) -> str:
        """Say Hello to the model and give its answer."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": GREETING}],
            "max_tokens": 48,
            "temperature": 0,
        }
        answer = Client(self.openai_url).post("/chat/completions", body, timeout_s=timeout_s)
        try:
            return str(answer["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError):
            raise ClientError("the chat's answer is not of the OpenAI form") from None

    def served(self) -> list[str]:
        """Give the names of the models that answer."""
        answer = Client(self.openai_url).get("/models", timeout_s=5)
        return [str(item["id"]) for item in answer["data"]]

    def _client(self) -> Client:
        return Client(self.api_url, self.token_file.read_text(encoding="utf-8").strip())

    def _new_token(self, admin: Client) -> str:
        return str(admin.post(f"/api/v2/users/{USER}/tokens", {})["token"])


@contextmanager
def _already_there() -> Iterator[None]:
    """Go on where the API says 409: somebody, perhaps an earlier start that was killed, made it before."""
    try:
        yield
    except ClientError as error:
        if error.status != _CONFLICT:
            raise
