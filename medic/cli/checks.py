"""What `medic doctor` looks at: each check is a function that never raises and never changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from medic import liveness
from medic.cli.address import Address
from medic.cli.client import Client
from medic.db import make_engine
from medic.egress.endpoints import allow_list
from medic.errors import Forbidden, MedicError, Unauthenticated
from medic.migrate import pending
from medic.partitions import LEAST_AHEAD, days_ahead
from medic.ratelimit.address import connection_options
from medic.sandbox import probe
from medic.settings import Settings
from medic.vault import check_key, key_ring

Verdict = Literal["ok", "warn", "fail"]
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: of what, how it stands, and in words."""

    name: str
    verdict: Verdict
    text: str


def check_database(settings: Settings) -> Iterator[Finding]:
    """Reachable, of which version, migrated, with partitions ahead; and whether the secrets' key fits."""
    if settings.database_url is None:
        yield Finding(
            "database", "fail", "none is set: MEDIC_DATABASE_URL, or DB_HOST with its parts, or `medic up`"
        )
        return
    engine = make_engine(settings.database_url.get_secret_value(), component="medic-doctor")
    try:
        with Session(engine) as session:
            version = str(session.execute(text("SHOW server_version")).scalar_one())
            number = int(session.execute(text("SHOW server_version_num")).scalar_one())
            if number < 150_000:
                yield Finding("database", "fail", f"PostgreSQL {version}; Medic needs 15 or later")
                return
            yield Finding("database", "ok", f"PostgreSQL {version}")
            missing = pending(session.connection())
            if missing:
                yield Finding(
                    "migrations", "fail", f"{len(missing)} are pending ({missing[0]} …): run `medic migrate`"
                )
                return
            yield Finding("migrations", "ok", "none pending")
            yield _partitions(days_ahead(session.connection()))
            yield _secrets_key(session, settings)
            session.rollback()
    except (SQLAlchemyError, UnicodeError) as error:
        yield Finding("database", "fail", f"cannot be used: {database_reason(error)}")
    finally:
        engine.dispose()


def check_redis(settings: Settings) -> Iterator[Finding]:
    """The broker: reachable, of which version, and whether it keeps what it is given."""
    if settings.redis_url is None:
        yield Finding("redis", "fail", "none is set: REDIS_URL, or `medic up`")
    else:
        yield from _redis("redis", settings.redis_url.get_secret_value(), keeps_messages=True)
    if settings.limiter_redis_url is not None:
        yield from _redis(
            "redis of the limiter", settings.limiter_redis_url.get_secret_value(), keeps_messages=False
        )


def check_sandbox(settings: Settings) -> Iterator[Finding]:
    """Whether this machine can hold a script; it matters where workers run."""
    try:
        status = probe()
    except (MedicError, OSError) as error:
        yield Finding("sandbox", _sandbox_verdict(settings), f"cannot start: {error}")
        return
    what = f"Landlock ABI {status.landlock_abi}, seccomp {'yes' if status.seccomp else 'no'}"
    reasons = f"; {'; '.join(status.reasons)}" if status.reasons else ""
    if status.ok:
        yield Finding("sandbox", "ok", what + reasons)
    else:
        end = (
            "scripts are refused here" if settings.sandbox == "required" else "scripts run here all the same"
        )
        yield Finding("sandbox", _sandbox_verdict(settings), f"{what}{reasons}: {end} (MEDIC_SANDBOX)")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """The pepper of the API keys."""
    yield _tried("API keys", settings.need_pepper, "MEDIC_API_KEY_PEPPER is set")


def check_egress(settings: Settings) -> Iterator[Finding]:
    """Where webhooks may go."""
    count = len(settings.allowed_webhook_hosts)
    what = f"{count} entries in MEDIC_ALLOWED_WEBHOOK_HOSTS" if count else "the public internet, ports 80, 443, 8443"
    yield _tried("webhooks", lambda: allow_list(settings), what)


def check_api(address: Address) -> Iterator[Finding]:
    """The API: reachable, ready, and whether the key is one of its own."""
    client = Client(address, connect_s=TIMEOUT_S, read_s=TIMEOUT_S)
    try:
        client.call("GET", "/health/ready")
    except MedicError as error:
        yield Finding("API", "fail", str(error))
        return
    yield Finding("API", "ok", f"ready at {address.url}")
    if address.key is None:
        yield Finding("API key", "warn", "none is set for the command line: MEDIC_API_KEY")
        return
    try:
        client.get("/v1/services", limit=1)
    except Unauthenticated:
        yield Finding("API key", "fail", "the server does not take it")
    except Forbidden:
        yield Finding("API key", "ok", "taken; it may not list services")
    except MedicError as error:
        yield Finding("API key", "fail", str(error))
    else:
        yield Finding("API key", "ok", "taken")


def check_processes(settings: Settings, *, now: float, must_run: bool = False) -> Iterator[Finding]:
    """Workers and beat of this machine, by their liveness files.

    :param must_run: whether none at all is a failure (a probe) or a hint (they run elsewhere).
    """
    for kind in ("worker", "beat"):
        yield from check_process(settings, kind, now=now, must_run=must_run)


def check_process(
    settings: Settings, kind: Literal["worker", "beat"], *, now: float, must_run: bool = True
) -> Iterator[Finding]:
    """One kind of process; see `check_processes`."""
    ages = liveness.ages(settings, kind, now=now)
    if not ages:
        where = liveness.folder(settings)
        yield Finding(kind, "fail" if must_run else "warn", f"none has shown itself in {where}")
    for name, age in ages.items():
        if age > liveness.MAX_AGE_S:
            yield Finding(
                f"{kind} {name}",
                "fail",
                f"no sign of life for {age:.0f} s (allowed: {liveness.MAX_AGE_S:.0f} s)",
            )
        else:
            yield Finding(f"{kind} {name}", "ok", f"alive {age:.0f} s ago")


def database_reason(error: BaseException) -> str:
    """Why the database does not answer, in one line, without what was sent."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _partitions(ahead: int) -> Finding:
    if ahead < 0:
        return Finding("partitions", "fail", "today has none: heartbeats are refused; run `medic migrate`")
    verdict: Verdict = "ok" if ahead >= LEAST_AHEAD else "warn"
    hint = "" if verdict == "ok" else ": a worker on medic.housekeeping makes them; `medic migrate` does too"
    return Finding("partitions", verdict, f"{ahead} days ahead{hint}")


def _secrets_key(session: Session, settings: Settings) -> Finding:
    if settings.secrets_key is None:
        return Finding("secrets", "warn", "MEDIC_SECRETS_KEY is unset: secrets cannot be used")
    return _tried(
        "secrets", lambda: check_key(session, key_ring(settings)), "MEDIC_SECRETS_KEY fits the database"
    )


def _redis(name: str, url: str, *, keeps_messages: bool) -> Iterator[Finding]:
    try:
        options = connection_options(url)
        connection_class = options.pop("connection_class", redis.Connection)
        pool = redis.ConnectionPool(
            connection_class=connection_class,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            **options,
        )
        client = redis.Redis(connection_pool=pool)
        try:
            info: dict[str, Any] = client.info()  # type: ignore[assignment]
        finally:
            client.close()
            pool.disconnect()
    except MedicError as error:
        yield Finding(name, "fail", str(error))
    except (redis.RedisError, OSError, TypeError) as error:
        yield Finding(name, "fail", f"cannot be used: {str(error).splitlines()[0] if str(error) else 'no answer'}")
    else:
        server = "Valkey" if "valkey_version" in info else "Redis"
        version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
        yield Finding(name, "ok", f"{server} {version}")
        if keeps_messages:
            yield from _memory(name, info)


def _memory(name: str, info: dict[str, Any]) -> Iterator[Finding]:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        yield Finding(name, "warn", f"maxmemory-policy is {policy}: it drops messages when memory is short; "
                      "set noeviction")  # fmt: skip
    if not int(info.get("aof_enabled", 0)):
        yield Finding(name, "warn", "no append-only file: a restart forgets the queue; nothing is lost, but late")


def _tried(name: str, check: Callable[[], object], fine: str) -> Finding:
    try:
        check()
    except MedicError as error:
        return Finding(name, "fail", str(error))
    return Finding(name, "ok", fine)


def _sandbox_verdict(settings: Settings) -> Verdict:
    # Where no scripts run, a machine that cannot hold them is no fault.
    return "warn" if settings.sandbox in {"required", "best-effort"} else "fail"
