"""Settings: read once from the environment into one frozen object that is passed down.

Rules: a wrong value stops the start with a line that names the variable (one exception: an unknown
limiter type is a warning, and means memory); an empty value is an unset one; booleans are ``true`` or
``false``; every secret may come from a file named by ``<NAME>_FILE``, and a missing file stops the
start too.  Secrets are a type that does not print.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from medic.errors import Invalid, Misconfigured
from medic.times import parse_duration, parse_zone


def _strict_bool(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in {"true", "false"}:
            raise ValueError("write true or false")
        return word == "true"
    return value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _names(value: object) -> object:
    """Comma-separated names; blanks are ignored."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _zone(value: object) -> object:
    try:
        return parse_zone(value, path="it").key
    except Invalid as error:
        raise ValueError(str(error)) from None


def _seconds(value: object) -> object:
    try:
        return int(parse_duration(value, path="it").total_seconds()) if isinstance(value, str) else value
    except Invalid as error:
        raise ValueError(str(error)) from None


Bool = Annotated[bool, BeforeValidator(_strict_bool)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
Format = Annotated[Literal["json", "text"], BeforeValidator(_lower)]
Sandbox = Annotated[Literal["required", "best-effort"], BeforeValidator(_lower)]
Zone = Annotated[str, BeforeValidator(_zone)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Limit = Annotated[int, Field(ge=1, le=10_000_000)]


def _env(name: str, default: Any, help_: str, section: str, *, unused: bool = False) -> Any:
    """:param unused: it is read and checked, but what it steers is not in this version yet."""
    return Field(
        default, alias=name, description=help_, json_schema_extra={"section": section, "unused": unused}
    )


class Settings(BaseModel):
    """Every variable that Medic reads.  Field aliases are the names of the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    # --- database
    medic_database_url: SecretStr | None = _env(
        "MEDIC_DATABASE_URL", None, "PostgreSQL URL; wins over all below. Unset under `medic up`: an embedded server.", "database")  # fmt: skip
    fallback_database_url: SecretStr | None = _env(
        "DATABASE_URL", None, "PostgreSQL URL; wins over the parts below.", "database")  # fmt: skip
    db_host: str | None = _env("DB_HOST", None, "Database host, when no URL is given.", "database")
    db_port: Port = _env("DB_PORT", 5432, "Database port.", "database")
    db_name: str | None = _env("DB_NAME", None, "Database name.", "database")
    pg_user: str | None = _env("PG_USER", None, "Database user.", "database")
    pg_pass: SecretStr | None = _env("PG_PASS", None, "Database password.", "database")
    database_pool_size: int = Field(
        10, alias="MEDIC_DATABASE_POOL_SIZE", ge=1, le=1000,
        description="Connections that one process keeps at the most.", json_schema_extra={"section": "database"})  # fmt: skip

    # --- redis
    redis_url: SecretStr | None = _env(
        "REDIS_URL", None, "Redis URL of broker and limiter. Unset under `medic up`: an embedded server.", "redis")  # fmt: skip
    redis_pool_size: int = Field(
        10, alias="REDIS_POOL_SIZE", ge=1, le=10_000,
        description="Connections of the rate limiter in one process.", json_schema_extra={"section": "redis"})  # fmt: skip
    limiter_redis_url: SecretStr | None = _env(
        "MEDIC_LIMITER_REDIS_URL", None, "Redis URL of the limiter alone, if not REDIS_URL.", "redis")  # fmt: skip

    # --- api
    host: str = _env("MEDIC_HOST", "127.0.0.1", "Address that the API listens on.", "api")
    port: Port = _env("PORT", 8080, "Port that the API listens on.", "api")
    api_workers: int = Field(
        1, alias="MEDIC_API_WORKERS", ge=1, le=256,
        description="Processes of the API.", json_schema_extra={"section": "api"})  # fmt: skip
    api_threads: int = Field(
        8, alias="MEDIC_API_THREADS", ge=1, le=1024,
        description="Threads in each process of the API.", json_schema_extra={"section": "api"})  # fmt: skip
    base_url: str = _env("MEDIC_BASE_URL", "http://127.0.0.1:8080", "Where people and jobs reach the API; builds ping URLs and links.", "api")  # fmt: skip
    trusted_proxies: int = Field(
        0, alias="MEDIC_TRUSTED_PROXIES", ge=0, le=16,
        description="How many proxies stand before the API and may set X-Forwarded-For.", json_schema_extra={"section": "api"})  # fmt: skip
    metrics_public: Bool = _env("MEDIC_METRICS_PUBLIC", False, "true opens /metrics without a key.", "api")
    legacy_keyless: Bool = _env(
        "MEDIC_LEGACY_KEYLESS", False, "true lets the original's heartbeat routes in without a key.", "api")  # fmt: skip
    flower_port: Port = _env("MEDIC_FLOWER_PORT", 5555, "Port that Flower listens on.", "api")
    flower_basic_auth: SecretStr | None = _env(
        "MEDIC_FLOWER_BASIC_AUTH", None, "user:password for Flower; without it Flower listens on loopback only.", "api")  # fmt: skip

    # --- monitoring
    worker_interval_seconds: int = Field(
        5, alias="WORKER_INTERVAL_SECONDS", ge=1, le=300,
        description="Seconds between two sweeps.", json_schema_extra={"section": "monitoring"})  # fmt: skip
    timezone: Zone = _env("MEDIC_TIMEZONE", "UTC", "Zone of a schedule that names none.", "monitoring")
    heartbeat_retention_days: int = Field(
        30, alias="HEARTBEAT_RETENTION_DAYS", ge=1, le=3650,
        description="Days that heartbeats are kept.", json_schema_extra={"section": "monitoring"})  # fmt: skip
    auto_unmute_hours: int = Field(
        24, alias="ALERT_AUTO_UNMUTE_HOURS", ge=1, le=8760,
        description="Hours after which a mute that names no end is over.", json_schema_extra={"section": "monitoring", "unused": True})  # fmt: skip

    # --- playbooks
    step_timeout_cap: Seconds = Field(
        300, alias="MEDIC_STEP_TIMEOUT_CAP", ge=1, le=86_400,
        description="Longest timeout of a step, as 5m; a drain waits this long and 30 s more.", json_schema_extra={"section": "playbooks"})  # fmt: skip
    allowed_webhook_hosts: Names = _env(
        "MEDIC_ALLOWED_WEBHOOK_HOSTS", (), "Where webhooks may go: hosts, *.suffix, CIDR:port, * for the public internet. Unset: the public internet.", "playbooks")  # fmt: skip
    additional_script_env_vars: Names = _env(
        "MEDIC_ADDITIONAL_SCRIPT_ENV_VARS", (), "Variables of the worker that scripts see besides PATH HOME USER LANG LC_ALL TZ.", "playbooks")  # fmt: skip
    sandbox: Sandbox = _env(
        "MEDIC_SANDBOX", "required", "required refuses scripts where the kernel cannot hold them; best-effort runs them.", "playbooks")  # fmt: skip
    run_dir: Path | None = _env(
        "MEDIC_RUN_DIR", None, "Folder of liveness files, for `medic doctor --worker`; a folder of the temporary one if unset.", "playbooks")  # fmt: skip

    # --- security
    secrets_key: SecretStr | None = _env("MEDIC_SECRETS_KEY", None, "Key that seals secrets: base64 of 32 bytes.", "security")  # fmt: skip
    api_key_pepper: SecretStr | None = _env("MEDIC_API_KEY_PEPPER", None, "Key of the digests of API keys, 32 bytes or more.", "security")  # fmt: skip
    audit_key: SecretStr | None = _env("MEDIC_AUDIT_KEY", None, "Key of the audit log's chain, 32 bytes or more.", "security", unused=True)  # fmt: skip
    webhook_secret: SecretStr | None = _env("MEDIC_WEBHOOK_SECRET", None, "Secret of the original's webhook trigger; unset: it answers 503.", "security")  # fmt: skip

    # --- rate limits
    rate_limiter_type: str = _env("MEDIC_RATE_LIMITER_TYPE", "auto", "auto, redis or memory.", "rate limits")
    rate_limit_heartbeat: Limit = _env("RATE_LIMIT_HEARTBEAT_REQUESTS", 120, "Heartbeats of one service a minute.", "rate limits")  # fmt: skip
    rate_limit_management: Limit = _env("RATE_LIMIT_MANAGEMENT_REQUESTS", 300, "Management calls of one key a minute.", "rate limits")  # fmt: skip
    rate_limit_trigger: Limit = _env("RATE_LIMIT_TRIGGER_REQUESTS", 10, "Playbook starts of one key a minute.", "rate limits")  # fmt: skip
    rate_limit_health: Limit = _env("RATE_LIMIT_HEALTH_REQUESTS", 1000, "Health calls of one address a minute.", "rate limits")  # fmt: skip
    rate_limit_metrics: Limit = _env(
        "RATE_LIMIT_METRICS_REQUESTS", 100, "Metrics calls a minute.", "rate limits"
    )
    rate_limit_docs: Limit = _env("RATE_LIMIT_DOCS_REQUESTS", 60, "Page and documentation calls of one address a minute.", "rate limits")  # fmt: skip
    rate_limit_ping: Limit = _env(
        "RATE_LIMIT_PING_REQUESTS", 120, "Calls of one ping URL a minute.", "rate limits"
    )

    # --- notifications
    slack_api_token: SecretStr | None = _env("SLACK_API_TOKEN", None, "Bot token of the default Slack target.", "notifications", unused=True)  # fmt: skip
    slack_channel_id: str | None = _env("SLACK_CHANNEL_ID", None, "Channel of the default Slack target.", "notifications", unused=True)  # fmt: skip
    slack_signing_secret: SecretStr | None = _env("SLACK_SIGNING_SECRET", None, "Verifies requests from Slack; unset: they are refused.", "notifications", unused=True)  # fmt: skip
    pagerduty_routing_key: SecretStr | None = _env("PAGERDUTY_ROUTING_KEY", None, "Routing key of the default PagerDuty target.", "notifications", unused=True)  # fmt: skip

    # --- telemetry
    environment: str = _env("MEDIC_ENVIRONMENT", "development", "Name of this deployment in logs, metrics and traces.", "telemetry")  # fmt: skip
    version: str = _env("MEDIC_VERSION", "unknown", "Version of this deployment in logs, metrics and traces.", "telemetry")  # fmt: skip
    medic_log_level: Level | None = _env("MEDIC_LOG_LEVEL", None, "Least level that is logged; wins over LOG_LEVEL.", "telemetry")  # fmt: skip
    fallback_log_level: Level = _env("LOG_LEVEL", "INFO", "Least level that is logged.", "telemetry")
    log_format: Format = _env("MEDIC_LOG_FORMAT", "json", "json or text.", "telemetry")
    metrics_port: Port = _env("METRICS_PORT", 9091, "Port of a worker's and beat's metrics; 0 turns it off.", "telemetry")  # fmt: skip
    otel_enabled: Bool = _env("OTEL_ENABLED", False, "true sends traces.", "telemetry")
    otel_endpoint: str = _env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://alloy:4317", "OTLP gRPC collector; https means TLS.", "telemetry")  # fmt: skip
    otel_service_name: str = _env("OTEL_SERVICE_NAME", "medic", "Service name in traces.", "telemetry")
    otel_resource_attributes: str = _env("OTEL_RESOURCE_ATTRIBUTES", "", "More attributes of traces: k=v,k=v.", "telemetry")  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for name, url, schemes in (
            ("MEDIC_DATABASE_URL", self.medic_database_url, ("postgresql://", "postgres://", "postgresql+psycopg2://")),
            ("DATABASE_URL", self.fallback_database_url, ("postgresql://", "postgres://", "postgresql+psycopg2://")),
            ("REDIS_URL", self.redis_url, ("redis://", "rediss://", "redis+socket://")),
            ("MEDIC_LIMITER_REDIS_URL", self.limiter_redis_url, ("redis://", "rediss://", "redis+socket://")),
        ):  # fmt: skip
            if url is not None and not url.get_secret_value().startswith(schemes):
                raise ValueError(f"{name}: must start with {schemes[0]}")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("MEDIC_BASE_URL: must start with http:// or https://")
        if self.db_host and not (self.db_name and self.pg_user):
            raise ValueError("DB_HOST: needs DB_NAME and PG_USER beside it")
        return self

    # --- what the parts mean together

    @property
    def database_url(self) -> SecretStr | None:
        """SQLAlchemy's URL of the database: MEDIC_DATABASE_URL, DATABASE_URL, or the parts."""
        given = self.medic_database_url or self.fallback_database_url
        if given is not None:
            _, rest = given.get_secret_value().split("://", 1)
            return SecretStr(f"postgresql+psycopg2://{rest}")
        if self.db_host is None:
            return None
        password = f":{quote(self.pg_pass.get_secret_value(), safe='')}" if self.pg_pass else ""
        user = quote(self.pg_user or "", safe="")
        return SecretStr(
            f"postgresql+psycopg2://{user}{password}@{self.db_host}:{self.db_port}/{self.db_name}"
        )

    @property
    def log_level(self) -> str:
        return self.medic_log_level or self.fallback_log_level

    def need_database_url(self) -> str:
        """The database's URL.

        :raises Misconfigured: when none is set.
        """
        if self.database_url is None:
            raise Misconfigured(
                "No database: set MEDIC_DATABASE_URL (or DATABASE_URL, or DB_HOST with its parts), or run `medic up`."
            )
        return self.database_url.get_secret_value()

    def need_redis_url(self) -> str:
        """The broker's URL.

        :raises Misconfigured: when none is set.
        """
        if self.redis_url is None:
            raise Misconfigured("No broker: set REDIS_URL, or run `medic up`.")
        return self.redis_url.get_secret_value()

    def need_pepper(self) -> bytes:
        """The key of the API keys' digests.

        :raises Misconfigured: when it is unset or short.
        """
        value = self.api_key_pepper.get_secret_value().encode() if self.api_key_pepper else b""
        if len(value) < 32:
            raise Misconfigured("MEDIC_API_KEY_PEPPER: must be set, 32 characters or more.")
        return value

    # --- reading

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings.

        :raises Misconfigured: naming each variable that is wrong, never its value.
        """
        values: dict[str, str] = {}
        for field in cls.model_fields.values():
            name = str(field.alias)
            value = environ.get(name, "")
            if "SecretStr" in str(field.annotation):
                value = _from_file(environ, name, value)
            if value:
                values[name] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = []
            for item in error.errors(include_input=False, include_url=False):
                where = str(item["loc"][0]) + ": " if item["loc"] else ""
                lines.append(where + item["msg"].removeprefix("Value error, "))
            raise Misconfigured("; ".join(lines)) from None


def _from_file(environ: Mapping[str, str], name: str, value: str) -> str:
    path = environ.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise Misconfigured(f"{name}: set it or {name}_FILE, not both")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(f"{name}_FILE: cannot be read") from None


@lru_cache(maxsize=1)
def current() -> Settings:
    """This process's settings, read at the first call.  For the edges only; below them, pass it."""
    return Settings.from_env(os.environ)
