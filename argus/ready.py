"""What is printed when the platform is ready. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to try. `answer` is the first model's answer to Hello, None where nobody asked it."""

    api_url: str
    openai_url: str
    specs_url: str
    state: Path
    token_file: Path
    models: Sequence[str]
    answer: str | None = None

    def lines(self) -> Iterator[str]:
        """Give the text, line by line."""
        yield ""
        yield "Argus is ready."
        yield ""
        yield f"  OpenAI API      {self.openai_url}"
        yield f"  management API  {self.api_url}/api/v2"
        yield f"  models          {', '.join(self.models) or 'none'}"
        if self.answer is not None:
            yield f"  first answer    {self.answer}"
        yield f"  state folder    {self.state}"
        yield ""
        yield "Try:"
        if self.models:
            body = f'{{"model": "{self.models[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
            yield f"  curl {self.openai_url}/chat/completions -H 'Content-Type: application/json' -d '{body}'"
        yield f'  curl {self.api_url}/api/v2/serve/models -H "Authorization: Bearer $(cat {self.token_file})"'
        yield f"  git clone {self.specs_url} specs && git -C specs log"
        yield ""
        yield "Ctrl-C stops everything."
