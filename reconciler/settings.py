"""The configuration: one YAML file, unknown keys refused, a few keys overridable from the environment.

Relative paths are relative to `home`, the state folder. `dev.yaml` at the root of the repository is a complete
example with every key commented.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from reconciler.core.announcements import KINDS
from reconciler.core.brake import Brake
from reconciler.errors import SettingsError
from reconciler.names import is_user_id
from reconciler.spec import Limits, UpdateStrategy

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


SPEC_REPO_TOKEN = "ARGUS_SPEC_REPO_TOKEN"  # noqa: S105  a variable's name
"""The environment's variable with the token of an https spec repository. It is no setting, so that none shows it."""

STATUS_TOKEN = "ARGUS_STATUS_TOKEN"  # noqa: S105  a variable's name
"""The environment's variable with the token that commit statuses are posted with."""

HOOK_SECRETS = "ARGUS_HOOK_SECRETS"
"""The environment's variable with secrets of webhooks, separated by white space."""

_USERINFO = re.compile(r"(?<=://)[^/\s@]*@")
_HTTPS_SECRET = re.compile(r"https://(?:[^/]*@|[^?#]*[?#])", re.IGNORECASE)
_SSH_PASSWORD = re.compile(r"ssh://[^/@]*:[^/]*@", re.IGNORECASE)
_PUBLIC_APIS = {"github": "https://api.github.com", "gitlab": "https://gitlab.com/api/v4"}
_LONGEST_URL = 2000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HookSettings(_Section):
    """Webhooks that tell of pushes. Secrets are in files, relative to the state folder, or in ARGUS_HOOK_SECRETS."""

    secret_files: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    max_body_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 25 * 1024 * 1024


class ApiSettings(_Section):
    """The management API."""

    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    threads: Annotated[int, Field(ge=1, le=256)] = 8
    request_timeout_s: Seconds = 30
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    token_ttl_days: Annotated[int, Field(ge=1, le=3650)] = 365
    log_followers: Annotated[int, Field(ge=1, le=255)] = 4
    log_follow_s: Seconds = 900
    hooks: HookSettings = HookSettings()

    @field_validator("public_url")
    @classmethod
    def _plain(cls, url: str | None) -> str | None:
        return None if url is None else _address(url).rstrip("/")


class PathSettings(_Section):
    """Where `/private` lies on this machine's disk."""

    private_root: str = "/private"


def _checked_users(users: tuple[str, ...]) -> tuple[str, ...]:
    for user in users:
        if user != "*" and not is_user_id(user):
            raise PydanticCustomError("no_user", "each user is a user id, or * for whoever may write everywhere")
    return users


Users = Annotated[tuple[str, ...], AfterValidator(_checked_users)]
Authors = dict[Annotated[str, Field(pattern=r"^[^\s<>@]{1,100}@[^\s<>@]{1,150}$")], Users]
"""Who may write what: users by the e-mail address of a commit's author."""


class OwnershipSettings(_Section):
    """Whose commits count in `users/<u>/`. Files and folders are relative to the state folder."""

    policy: Literal["trust_branch", "author_map", "signed"] = "trust_branch"
    authors: Authors = Field(default_factory=dict)
    authors_file: str | None = None
    signers: str | None = None
    signing_key: str = "signing-key"
    platform_keys: tuple[str, ...] = ()
    since: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if self.policy == "author_map" and not self.authors and self.authors_file is None:
            raise PydanticCustomError(
                "no_authors", "the policy author_map needs authors or authors_file, or nobody's commits would count"
            )
        if self.policy == "signed" and self.signers is None:
            raise PydanticCustomError(
                "no_signers", "the policy signed needs signers (a folder with keys), or nobody's commits would count"
            )
        return self


class StatusSettings(_Section):
    """Commit statuses at the provider that holds the spec repository. Without `provider` there are none.

    The token is in a file, or in the environment's ARGUS_STATUS_TOKEN; paths are relative to the state folder.
    """

    provider: Literal["github", "gitlab", "gitea"] | None = None
    api_url: str | None = None
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=255)] | None = None
    token_file: str | None = None
    ca_file: str | None = None
    context: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._/-]{0,99}$")] = "argus"
    also_per: Literal["user", "file"] | None = None
    target_url: str | None = None

    @field_validator("api_url", "target_url")
    @classmethod
    def _plain(cls, url: str | None) -> str | None:
        return None if url is None else _address(url)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.provider is None:
            return self
        url = self.base_url
        if url is None:
            raise PydanticCustomError(
                "no_api_url", "gitea needs spec_repo.statuses.api_url; right would be https://host/api/v1"
            )
        if not url.startswith("https://") and urlsplit(url).hostname not in _LOOPBACK:
            raise PydanticCustomError(
                "plain_http", "a token goes there: right would be https://, or http:// on this machine itself"
            )
        if self.repository is None or (self.provider != "gitlab" and self.repository.count("/") != 1):
            right = "a project's path (group/project) or number" if self.provider == "gitlab" else "owner/name"
            raise PydanticCustomError(
                "no_repository",
                "spec_repo.statuses.repository is missing or has another form; right would be {right}",
                {"right": right},
            )
        return self

    @property
    def base_url(self) -> str | None:
        """The API's address, without a slash at its end; None where it has to be given and is not."""
        url = self.api_url or _PUBLIC_APIS.get(self.provider or "")
        return url.rstrip("/") if url else None


class SpecRepoSettings(_Section):
    """The spec repository. Without `url` it is the embedded bare repository `specs.git` in the state folder.

    Secrets are in files, or in the environment's ARGUS_SPEC_REPO_TOKEN; paths are relative to the state folder.
    """

    url: str | None = None
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")] = "main"
    notes: bool = True
    timeout_s: Seconds = 30
    username: Annotated[str, Field(pattern=r"^[!-9;-~]{1,200}$")] = "git"
    token_file: str | None = None
    ca_file: str | None = None
    ssh_key_file: str | None = None
    known_hosts_file: str | None = None
    ownership: OwnershipSettings = OwnershipSettings()
    statuses: StatusSettings = StatusSettings()

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str | None) -> str | None:
        if url and (_HTTPS_SECRET.match(url) or _SSH_PASSWORD.match(url)):
            raise PydanticCustomError(
                "secret_in_url",
                "a URL must hold no user, password or token, for it is shown in logs; right would be "
                "https://host/path with spec_repo.username and spec_repo.token_file (or ARGUS_SPEC_REPO_TOKEN), "
                "or ssh://user@host/path with spec_repo.ssh_key_file",
            )
        return url

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        is_https = bool(self.url and self.url.lower().startswith("https://"))
        is_ssh = bool(self.url and not is_https and re.match(r"(?i)ssh://|[^/]+:(?!//)", self.url))
        for name, given, right in (
            ("token_file", self.token_file, "https://" if not is_https else None),
            ("ca_file", self.ca_file, "https://" if not is_https else None),
            ("ssh_key_file", self.ssh_key_file, "ssh://" if not is_ssh else None),
            ("known_hosts_file", self.known_hosts_file, "ssh://" if not is_ssh else None),
        ):
            if given is not None and right is not None:
                raise PydanticCustomError("secret_without_url", f"{name} needs a spec_repo.url that begins {right}")
        return self


class NotificationSettings(_Section):
    """One receiver of notifications. `events` and `users` are lists, or null for all of them.

    `secret_file` holds what requests are signed with: `whsec_` and base64, one a line; all of them sign.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    url: str
    secret_file: str
    events: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    users: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    ca_file: str | None = None
    allow_private: bool = False

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        return _address(url)

    @field_validator("events")
    @classmethod
    def _known(cls, events: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := sorted(set(events or ()) - KINDS):
            raise PydanticCustomError(
                "unknown_event",
                "there is no event '{unknown}'; there are {known}",
                {"unknown": f"{unknown[0]:.40}", "known": ", ".join(sorted(KINDS))},
            )
        return events


class OutboxSettings(_Section):
    """How what is told to the outside is delivered. A request may take `timeout_s` in all, whatever it does."""

    timeout_s: Annotated[float, Field(ge=0.1, le=120)] = 15
    concurrency: Annotated[int, Field(ge=1, le=16)] = 2
    attempts: Annotated[int, Field(ge=1, le=1000)] = 50
    give_up_after_s: Seconds = 86400


class LedgerSettings(_Section):
    """The ledger's database, as an SQLAlchemy URL. Without one: SQLite, `ledger.sqlite` in the state folder."""

    url: str | None = None
    timeout_s: Seconds = 10


class ReconcileSettings(_Section):
    """The loop."""

    interval_s: Annotated[float, Field(ge=0.2, le=3600)] = 5
    retry_delays_s: tuple[Seconds, ...] = Field(default=(15, 60, 300, 900), min_length=1)
    takeover_s: Annotated[float, Field(ge=1, le=600)] = 10
    pass_limit_s: Annotated[float, Field(ge=30, le=86400)] = 300
    removal_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    removal_at_least: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    probe_host: str = "127.0.0.1"
    probe_port: Port | None = None


class RaySettings(_Section):
    """The Ray cluster. Without `address` the platform starts an embedded one with logical resources."""

    address: str | None = None
    num_gpus: Annotated[int, Field(ge=0, le=1024)] = 4
    num_cpus: Annotated[int, Field(ge=1, le=1024)] = 8
    object_store_mb: Annotated[int, Field(ge=80, le=1_000_000)] = 256


class CpuEngineSettings(_Section):
    """How an engine runs where there is no GPU. Memory in GiB, threads a replica."""

    kv_cache_gib: Annotated[int, Field(ge=1, le=1024)] = 1
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class LlmSettings(_Section):
    """What the platform puts into every model's LLMConfig."""

    accelerator_type: str | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    engine_defaults: dict[str, Any] = Field(default_factory=dict)
    start_attempts: Annotated[int, Field(ge=1, le=20)] = 2
    drain_timeout_s: Seconds = 600
    hang_timeout_s: Seconds = 60
    load_timeout_s: Seconds = 3600
    max_ongoing_requests: Annotated[int, Field(ge=1, le=100_000)] = 1024
    cpu: CpuEngineSettings = CpuEngineSettings()


class HaproxySettings(_Section):
    """The front where it is HAProxy. `max_models` bounds how many models can answer at a time."""

    binary: str | None = None
    max_models: Annotated[int, Field(ge=1, le=16_384)] = 1024
    max_connections: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    queue_timeout_s: Seconds = 60
    metrics_host: str = "127.0.0.1"
    metrics_port: Port | None = 8001


class ServingSettings(_Section):
    """The road to the models: where the OpenAI API listens, and the Serve application behind it."""

    host: str = "127.0.0.1"
    port: Port = 8000
    public_url: str | None = None
    front: Literal["haproxy", "ray"] = "haproxy"
    max_body_bytes: Annotated[int, Field(ge=65_536, le=64 * 1024 * 1024)] = 10 * 1024 * 1024
    idle_timeout_s: Seconds = 600
    stop_grace_s: Seconds = 30
    haproxy: HaproxySettings = HaproxySettings()
    ingress_replicas: Annotated[int, Field(ge=1, le=64)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = 64
    max_gpus_per_replica: Annotated[int, Field(ge=1, le=1024)] = 64
    update_strategy: UpdateStrategy = "auto"
    llm: LlmSettings = LlmSettings()


class Settings(_Section):
    """Everything that can be configured."""

    home: Path = Path(".argus")
    api: ApiSettings = ApiSettings()
    paths: PathSettings = PathSettings()
    spec_repo: SpecRepoSettings = SpecRepoSettings()
    ledger: LedgerSettings = LedgerSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    ray: RaySettings = RaySettings()
    serving: ServingSettings = ServingSettings()
    notifications: Annotated[tuple[NotificationSettings, ...], Field(max_length=20)] = ()
    outbox: OutboxSettings = OutboxSettings()

    @field_validator("notifications")
    @classmethod
    def _distinct(cls, given: tuple[NotificationSettings, ...]) -> tuple[NotificationSettings, ...]:
        if len({each.name for each in given}) < len(given):
            raise PydanticCustomError("secret_name_twice", "two notifications have the same name; give each its own")
        return given

    @property
    def private_root(self) -> Path:
        """The folder on this machine's disk that users know as `/private`."""
        return self._at_home(self.paths.private_root)

    @property
    def spec_repo_url(self) -> str:
        """Where the spec repository is: the configured URL, or the embedded repository's folder."""
        return self.spec_repo.url or str(self.home / "specs.git")

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.ledger.url or f"sqlite:///{self.home / 'ledger.sqlite'}"

    @property
    def openai_base_url(self) -> str:
        """The base URL that users give to an OpenAI client."""
        if self.serving.public_url:
            return self.serving.public_url.rstrip("/")
        host = "127.0.0.1" if self.serving.host in {"0.0.0.0", "::"} else self.serving.host  # noqa: S104  compared, not bound
        return f"http://{host}:{self.serving.port}/v1"

    @property
    def limits(self) -> Limits:
        """The bounds that every spec is held to."""
        return Limits(
            max_replicas=self.serving.max_replicas,
            max_gpus_per_replica=self.serving.max_gpus_per_replica,
        )

    @property
    def brake(self) -> Brake:
        """How many models are too many to remove at once."""
        return Brake(
            share=self.reconcile.removal_share,
            at_least=self.reconcile.removal_at_least,
            asks_who=self.spec_repo.ownership.policy != "trust_branch",
        )

    @property
    def platform(self) -> str:
        """What goes into every engine besides its spec, as text: where it differs, every model is a new version."""
        no_engine = {"start_attempts", "drain_timeout_s", "hang_timeout_s", "load_timeout_s"}
        llm = self.serving.llm.model_dump(mode="json", exclude=no_engine)
        return json.dumps(llm, sort_keys=True)

    def _at_home(self, path: str) -> Path:
        return self.home / path


_FROM_ENVIRONMENT = {
    "ARGUS_HOME": ("home",),
    "ARGUS_API_PORT": ("api", "port"),
    "ARGUS_OPENAI_PORT": ("serving", "port"),
    "ARGUS_METRICS_PORT": ("serving", "haproxy", "metrics_port"),
    "ARGUS_PROBE_PORT": ("reconcile", "probe_port"),
    "ARGUS_LEDGER_URL": ("ledger", "url"),
    "ARGUS_SPEC_REPO_URL": ("spec_repo", "url"),
    "ARGUS_RAY_ADDRESS": ("ray", "address"),
}


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration file (all defaults where `path` is None) and the environment's overrides.

    Raises SettingsError, whose message names the key.
    """
    raw = _read(path) if path else {}
    for variable, keys in _FROM_ENVIRONMENT.items():
        if environ.get(variable):
            _put(raw, keys, environ[variable])
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(error, path)) from None
    return settings.model_copy(update={"home": settings.home.absolute()})


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = _USERINFO.sub("***@", str(error))  # a YAML error shows the line
        raise SettingsError(f"cannot read the configuration {path}: {reason}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: the configuration is a mapping of keys to values, not a {type(raw).__name__}")
    return raw


def _put(raw: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    *sections, last = keys
    for section in sections:
        inner = raw.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # validation names the section
        raw = inner
    raw[last] = value


def _explain(error: ValidationError, path: Path | None) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key '{key}'")
        else:
            given = "" if problem["type"].startswith("secret_") else f" (given: {_shown(problem['input'])})"
            lines.append(f"key '{key}': {problem['msg']}{given}")
    return f"{path or 'environment'}: " + "; ".join(lines)


def _address(url: str) -> str:
    """Give an http(s) URL as it is. Raises PydanticCustomError for what is none, or holds a user or a password."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_right = is_right and url.isascii() and url.isprintable() and " " not in url and len(url) <= _LONGEST_URL
    except ValueError:
        is_right = False
    if not is_right or parts.username is not None or parts.password is not None:
        raise PydanticCustomError(
            "secret_in_url", "right would be http(s)://host[:port]/path, without user and password"
        )
    return url


def _shown(value: object) -> str:
    """Show what was given, without what may be a password in a URL."""
    return f"{_USERINFO.sub('***@', repr(value)):.80}"
