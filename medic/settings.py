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
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from medic.errors import Misconfigured
from medic.setting_types import Bool, Format, Level, Limit, Names, Port, Sandbox, Seconds, Zone, env


class Settings(BaseModel):
    """Every variable that Medic reads.  Field aliases are the names of the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    # --- database
    medic_database_url: SecretStr | None = env(
        "MEDIC_DATABASE_URL", None, "PostgreSQL URL; wins over all below. Unset under `medic up`: an embedded server.", "database")  # fmt: skip
    fallback_database_url: SecretStr | None = env(
        "DATABASE_URL", None, "PostgreSQL URL; wins over the parts below.", "database")  # fmt: skip
    db_host: str | None = env("DB_HOST", None, "Database host, when no URL is given.", "database")
    db_port: Port = env("DB_PORT", 5432, "Database port.", "database")
    db_name: str | None = env("DB_NAME", None, "Database name.", "database")
    pg_user: str | None = env("PG_USER", None, "Database user.", "database")
    pg_pass: SecretStr | None = env("PG_PASS", None, "Database password.", "database")
    database_pool_size: int = Field(
        10, alias="MEDIC_DATABASE_POOL_SIZE", ge=1, le=1000,
        description="Connections that one process keeps at the most.", json_schema_extra={"section": "database"})  # fmt: skip

    # --- redis
    redis_url: SecretStr | None = env(
        "REDIS_URL", None, "Redis URL of broker and limiter. Unset under `medic up`: an embedded server.", "redis")  # fmt: skip
    redis_pool_size: int = Field(
        10, alias="REDIS_POOL_SIZE", ge=1, le=10_000,
        description="Connections of the rate limiter in one process.", json_schema_extra={"section": "redis"})  # fmt: skip
    limiter_redis_url: SecretStr | None = env(
        "MEDIC_LIMITER_REDIS_URL", None, "Redis URL of the limiter alone, if not REDIS_URL.", "redis")  # fmt: skip
    broker_prefix: str = env(
        "MEDIC_BROKER_PREFIX", "", "What the broker's keys begin with, where others share its Redis database.", "redis")  # fmt: skip
    worker_pool: str | None = Field(
        None, alias="MEDIC_WORKER_POOL", pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="Pool of this worker: what its workers run is counted under unacked.<pool>, apart from other pools. The same for all workers of a pool.", json_schema_extra={"section": "redis"})  # fmt: skip

    # --- api
    host: str = env("MEDIC_HOST", "127.0.0.1", "Address that the API listens on.", "api")
    port: Port = env("PORT", 8080, "Port that the API listens on.", "api")
    api_workers: int = Field(
        1, alias="MEDIC_API_WORKERS", ge=1, le=256,
        description="Processes of the API.", json_schema_extra={"section": "api"})  # fmt: skip
    api_threads: int = Field(
        32, alias="MEDIC_API_THREADS", ge=1, le=1024,
        description="Threads in each process of the API: as many heartbeats as may wait for one commit.", json_schema_extra={"section": "api"})  # fmt: skip
    base_url: str = env("MEDIC_BASE_URL", "http://127.0.0.1:8080", "Where people and jobs reach the API; builds ping URLs and links.", "api")  # fmt: skip
    trusted_proxies: int = Field(
        0, alias="MEDIC_TRUSTED_PROXIES", ge=0, le=16,
        description="How many proxies stand before the API and may set X-Forwarded-For.", json_schema_extra={"section": "api"})  # fmt: skip
    metrics_public: Bool = env("MEDIC_METRICS_PUBLIC", False, "true opens /metrics without a key.", "api")
    legacy_keyless: Bool = env(
        "MEDIC_LEGACY_KEYLESS", False, "true lets the original's heartbeat routes in without a key.", "api")  # fmt: skip
    flower_port: Port = env("MEDIC_FLOWER_PORT", 5555, "Port that Flower listens on.", "api")
    flower_basic_auth: SecretStr | None = env(
        "MEDIC_FLOWER_BASIC_AUTH", None, "user:password for Flower; without it Flower listens on loopback only.", "api")  # fmt: skip

    # --- monitoring
    worker_interval_seconds: int = Field(
        5, alias="WORKER_INTERVAL_SECONDS", ge=1, le=300,
        description="Seconds between two sweeps.", json_schema_extra={"section": "monitoring"})  # fmt: skip
    timezone: Zone = env("MEDIC_TIMEZONE", "UTC", "Zone of a schedule that names none.", "monitoring")
    auto_unmute_hours: int = Field(
        24, alias="ALERT_AUTO_UNMUTE_HOURS", ge=1, le=8760,
        description="Hours after which a mute that names no end is over.", json_schema_extra={"section": "monitoring"})  # fmt: skip

    # --- retention
    heartbeat_retention_days: int = Field(
        30, alias="HEARTBEAT_RETENTION_DAYS", ge=1, le=3650,
        description="Days that heartbeats and runs are kept; the newest 100 runs of a service stay.", json_schema_extra={"section": "retention"})  # fmt: skip
    alert_retention_days: int = Field(
        400, alias="ALERT_RETENTION_DAYS", ge=7, le=3650,
        description="Days that alerts are kept from their end on, with everything that happened to them.", json_schema_extra={"section": "retention"})  # fmt: skip
    execution_retention_days: int = Field(
        90, alias="EXECUTION_RETENTION_DAYS", ge=1, le=3650,
        description="Days that executions are kept from their end on, with their steps and outputs.", json_schema_extra={"section": "retention"})  # fmt: skip
    delivery_retention_days: int = Field(
        90, alias="DELIVERY_RETENTION_DAYS", ge=1, le=3650,
        description="Days that deliveries are kept, and as long as their alert is open.", json_schema_extra={"section": "retention"})  # fmt: skip
    audit_retention_days: int = Field(
        90, alias="AUDIT_RETENTION_DAYS", ge=1, le=3650,
        description="Days that audit entries are kept; only what is sealed into the chain goes.", json_schema_extra={"section": "retention"})  # fmt: skip
    snapshot_retention_days: int = Field(
        400, alias="SNAPSHOT_RETENTION_DAYS", ge=1, le=3650,
        description="Days that the configuration's history is kept.", json_schema_extra={"section": "retention"})  # fmt: skip
    idempotency_retention_days: int = Field(
        1, alias="IDEMPOTENCY_RETENTION_DAYS", ge=1, le=3650,
        description="Days that an Idempotency-Key keeps its answer.", json_schema_extra={"section": "retention"})  # fmt: skip
    statistics_retention_days: int = Field(
        400, alias="STATISTICS_RETENTION_DAYS", ge=1, le=3650,
        description="Days that each service's uptime, alerts and heartbeats by day are kept.", json_schema_extra={"section": "retention"})  # fmt: skip

    # --- playbooks
    step_timeout_cap: Seconds = Field(
        300, alias="MEDIC_STEP_TIMEOUT_CAP", ge=1, le=86_400,
        description="Longest timeout of a step, as 5m; a drain waits this long and 30 s more.", json_schema_extra={"section": "playbooks"})  # fmt: skip
    breaker_per_service: int = Field(
        5, alias="MEDIC_BREAKER_PER_SERVICE", ge=1, le=100_000,
        description="Executions within an hour for one service; then triggers start none for it.", json_schema_extra={"section": "playbooks"})  # fmt: skip
    breaker_per_playbook: int = Field(
        50, alias="MEDIC_BREAKER_PER_PLAYBOOK", ge=1, le=100_000,
        description="Executions within an hour of one playbook; then triggers start no more of it.", json_schema_extra={"section": "playbooks"})  # fmt: skip
    max_executions: int | None = Field(
        None, alias="MEDIC_MAX_EXECUTIONS", ge=1, le=1_000_000,
        description="Executions of all playbooks that may be open at a time, waiting steps included; the others wait for a place. Unset: no limit.", json_schema_extra={"section": "playbooks"})  # fmt: skip
    allowed_webhook_hosts: Names = env(
        "MEDIC_ALLOWED_WEBHOOK_HOSTS", (), "Where webhooks may go: hosts, *.suffix, CIDR:port, * for the public internet. Unset: the public internet.", "playbooks")  # fmt: skip
    additional_script_env_vars: Names = env(
        "MEDIC_ADDITIONAL_SCRIPT_ENV_VARS", (), "Variables of the worker that scripts see besides PATH HOME USER LANG LC_ALL TZ.", "playbooks")  # fmt: skip
    sandbox: Sandbox = env(
        "MEDIC_SANDBOX", "required", "required refuses scripts where the kernel cannot hold them; best-effort runs them.", "playbooks")  # fmt: skip
    run_dir: Path | None = env(
        "MEDIC_RUN_DIR", None, "Folder of liveness files, for `medic doctor --worker`; a folder of the temporary one if unset.", "playbooks")  # fmt: skip

    # --- security
    secrets_key: SecretStr | None = env("MEDIC_SECRETS_KEY", None, "Key that seals secrets: base64 of 32 bytes.", "security")  # fmt: skip
    api_key_pepper: SecretStr | None = env("MEDIC_API_KEY_PEPPER", None, "Key of the digests of API keys, 32 bytes or more.", "security")  # fmt: skip
    audit_key: SecretStr | None = env("MEDIC_AUDIT_KEY", None, "Key of the audit log's chain, 32 characters or more; while it is changed several, divided by commas, the new one first; unset: nothing is sealed.", "security")  # fmt: skip
    webhook_secret: SecretStr | None = env("MEDIC_WEBHOOK_SECRET", None, "Secret of the original's webhook trigger; two, divided by a comma, while it is changed; unset: it answers 503.", "security")  # fmt: skip

    # --- rate limits
    rate_limiter_type: str = env("MEDIC_RATE_LIMITER_TYPE", "auto", "auto, redis or memory.", "rate limits")
    rate_limit_heartbeat: Limit = env("RATE_LIMIT_HEARTBEAT_REQUESTS", 120, "Heartbeats of one service a minute.", "rate limits")  # fmt: skip
    rate_limit_management: Limit = env("RATE_LIMIT_MANAGEMENT_REQUESTS", 300, "Management calls of one key a minute.", "rate limits")  # fmt: skip
    rate_limit_trigger: Limit = env("RATE_LIMIT_TRIGGER_REQUESTS", 10, "Playbook starts of one key a minute.", "rate limits")  # fmt: skip
    rate_limit_health: Limit = env("RATE_LIMIT_HEALTH_REQUESTS", 1000, "Health calls of one address a minute.", "rate limits")  # fmt: skip
    rate_limit_metrics: Limit = env(
        "RATE_LIMIT_METRICS_REQUESTS", 100, "Metrics calls a minute.", "rate limits"
    )
    rate_limit_docs: Limit = env("RATE_LIMIT_DOCS_REQUESTS", 60, "Page and documentation calls of one address a minute.", "rate limits")  # fmt: skip
    rate_limit_ping: Limit = env(
        "RATE_LIMIT_PING_REQUESTS", 120, "Calls of one ping URL a minute.", "rate limits"
    )

    # --- notifications
    slack_api_token: SecretStr | None = env("SLACK_API_TOKEN", None, "Bot token of the default Slack target.", "notifications")  # fmt: skip
    slack_channel_id: str | None = env("SLACK_CHANNEL_ID", None, "Channel of the default Slack target.", "notifications")  # fmt: skip
    slack_signing_secret: SecretStr | None = env("SLACK_SIGNING_SECRET", None, "Verifies requests from Slack; two, divided by a comma, while it is changed; unset: they are refused.", "notifications")  # fmt: skip
    pagerduty_routing_key: SecretStr | None = env("PAGERDUTY_ROUTING_KEY", None, "Routing key of the default PagerDuty target.", "notifications")  # fmt: skip

    # --- telemetry
    watchdog_url: SecretStr | None = env("MEDIC_WATCHDOG_URL", None, "Pinged each minute while sweeps move on and deliveries leave, so that somebody else notices when Medic stops; unset: nothing is.", "telemetry")  # fmt: skip
    environment: str = env("MEDIC_ENVIRONMENT", "development", "Name of this deployment in logs, metrics and traces.", "telemetry")  # fmt: skip
    version: str = env("MEDIC_VERSION", "unknown", "Version of this deployment in logs, metrics and traces.", "telemetry")  # fmt: skip
    medic_log_level: Level | None = env("MEDIC_LOG_LEVEL", None, "Least level that is logged; wins over LOG_LEVEL.", "telemetry")  # fmt: skip
    fallback_log_level: Level = env("LOG_LEVEL", "INFO", "Least level that is logged.", "telemetry")
    log_format: Format = env("MEDIC_LOG_FORMAT", "json", "json or text.", "telemetry")
    metrics_port: Port = env("METRICS_PORT", 9091, "Port of a worker's and beat's metrics; 0 turns it off.", "telemetry")  # fmt: skip
    otel_enabled: Bool = env("OTEL_ENABLED", False, "true sends traces.", "telemetry")
    otel_endpoint: str = env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://alloy:4317", "OTLP gRPC collector; https means TLS.", "telemetry")  # fmt: skip
    otel_service_name: str = env("OTEL_SERVICE_NAME", "medic", "Service name in traces.", "telemetry")
    otel_resource_attributes: str = env("OTEL_RESOURCE_ATTRIBUTES", "", "More attributes of traces: k=v,k=v.", "telemetry")  # fmt: skip

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
        watchdog = self.watchdog_url.get_secret_value() if self.watchdog_url else "https://"
        if not watchdog.startswith(("http://", "https://")):
            raise ValueError("MEDIC_WATCHDOG_URL: must start with http:// or https://")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("MEDIC_BASE_URL: must start with http:// or https://")
        if self.db_host and not (self.db_name and self.pg_user):
            raise ValueError("DB_HOST: needs DB_NAME and PG_USER beside it")
        if any(len(key) < 32 for key in self.audit_keys):
            raise ValueError("MEDIC_AUDIT_KEY: each key must be 32 characters or more")
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
    def audit_keys(self) -> tuple[bytes, ...]:
        """The keys of the audit log's chain, newest first: that one seals, all verify.  None when it is unset."""
        text = self.audit_key.get_secret_value() if self.audit_key else ""
        return tuple(key.strip().encode() for key in text.split(",")) if text.strip() else ()

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
