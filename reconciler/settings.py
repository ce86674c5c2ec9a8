"""The configuration: one YAML file, unknown keys refused, a few keys overridable from the environment.

Relative paths are relative to `home`, the state folder. `dev.yaml` at the root of the repository is a complete
example with every key commented.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.errors import SettingsError
from reconciler.spec import Limits

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiSettings(_Section):
    """The management API."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    threads: Annotated[int, Field(ge=1, le=256)] = 8
    request_timeout_s: Seconds = 30
    max_body_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    token_ttl_days: Annotated[int, Field(ge=1, le=3650)] = 365


class PathSettings(_Section):
    """Where `/private` lies on this machine's disk."""

    private_root: str = "/private"


class SpecRepoSettings(_Section):
    """The spec repository. Without `url` it is the embedded bare repository `specs.git` in the state folder."""

    url: str | None = None
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")] = "main"
    notes: bool = True
    timeout_s: Seconds = 30


class LedgerSettings(_Section):
    """The ledger's database, as an SQLAlchemy URL. Without one: SQLite, `ledger.sqlite` in the state folder."""

    url: str | None = None
    timeout_s: Seconds = 10


class ReconcileSettings(_Section):
    """The loop."""

    interval_s: Annotated[float, Field(ge=0.2, le=3600)] = 5
    retry_delays_s: tuple[Seconds, ...] = Field(default=(15, 60, 300, 900), min_length=1)


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

    def _at_home(self, path: str) -> Path:
        return self.home / path


_FROM_ENVIRONMENT = {
    "ARGUS_HOME": ("home",),
    "ARGUS_API_PORT": ("api", "port"),
    "ARGUS_OPENAI_PORT": ("serving", "port"),
    "ARGUS_METRICS_PORT": ("serving", "haproxy", "metrics_port"),
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
        raise SettingsError(f"cannot read the configuration {path}: {error}") from error
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
            lines.append(f"key '{key}': {problem['msg']} (given: {problem['input']!r:.80})")
    return f"{path or 'environment'}: " + "; ".join(lines)
