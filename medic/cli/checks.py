"""What `medic doctor` looks at.  A check tells what is wrong, it does not raise it, and it changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from medic import ratelimit
from medic.audit_seals import waits_s
from medic.cli.client import Client
from medic.cli.findings import Finding, Verdict
from medic.client.address import Address
from medic.db import make_engine
from medic.egress.endpoints import allow_list
from medic.egress.validation import validate_url
from medic.errors import Forbidden, MedicError, Unauthenticated
from medic.migrate import pending
from medic.partitions import LEAST_AHEAD, days_ahead
from medic.sandbox import probe
from medic.settings import Settings
from medic.telemetry.redaction import redact_url
from medic.vault import check_key, key_ring

TIMEOUT_S = 3.0
LATE_SEALS_S = 60.0


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
            if settings.audit_keys:
                yield _seals(waits_s(session.connection()))
            session.rollback()
    except (SQLAlchemyError, UnicodeError) as error:
        yield Finding("database", "fail", f"cannot be used: {database_reason(error)}")
    finally:
        engine.dispose()


def check_sandbox(settings: Settings) -> Iterator[Finding]:
    """Whether this machine can hold a script; it matters where workers run."""
    try:
        status = probe()
    except (MedicError, OSError) as error:
        yield Finding("sandbox", "warn", f"cannot start: {error}")
        return
    what = f"Landlock ABI {status.landlock_abi}, seccomp {'yes' if status.seccomp else 'no'}"
    reasons = f"; {'; '.join(status.reasons)}" if status.reasons else ""
    if status.ok:
        yield Finding("sandbox", "ok", what + reasons)
    else:
        end = (
            "scripts are refused here" if settings.sandbox == "required" else "scripts run here all the same"
        )
        yield Finding("sandbox", "warn", f"{what}{reasons}: {end} (MEDIC_SANDBOX)")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """The pepper of the API keys, who needs no key, and the limiter's type, the one setting that may be wrong."""
    yield _tried("API keys", settings.need_pepper, "MEDIC_API_KEY_PEPPER is set")
    if not settings.audit_keys:
        yield Finding("audit log", "warn", "MEDIC_AUDIT_KEY is unset: audit entries are kept, and not sealed")
    if settings.legacy_keyless:
        yield Finding(
            "keyless", "warn", "MEDIC_LEGACY_KEYLESS is true: whoever reaches the API may send and read heartbeats "
            "by the original's routes",
        )  # fmt: skip
    asked = settings.rate_limiter_type.strip().lower()
    if asked not in ratelimit.TYPES:
        yield Finding(
            "rate limiter", "warn", "MEDIC_RATE_LIMITER_TYPE is none of auto, redis, memory: it is memory"
        )
    else:
        yield _tried("rate limiter", lambda: ratelimit.check(settings), f"MEDIC_RATE_LIMITER_TYPE is {asked}")


def check_egress(settings: Settings) -> Iterator[Finding]:
    """Where webhooks may go."""
    count = len(settings.allowed_webhook_hosts)
    what = (
        f"{count} entries in MEDIC_ALLOWED_WEBHOOK_HOSTS"
        if count
        else "the public internet, ports 80, 443, 8443"
    )
    yield _tried("webhooks", lambda: allow_list(settings), what)
    if settings.watchdog_url is not None:
        yield _watchdog(settings, settings.watchdog_url.get_secret_value())


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


def database_reason(error: BaseException) -> str:
    """Why the database does not answer, in one line, without what was sent."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _watchdog(settings: Settings, url: str) -> Finding:
    where = redact_url(url)
    try:
        validate_url(url, allow=allow_list(settings))
    except MedicError:
        hint = "does it resolve, and does MEDIC_ALLOWED_WEBHOOK_HOSTS let it through?"
        return Finding("watchdog", "fail", f"{where} may not be pinged: {hint}")
    return Finding("watchdog", "ok", f"{where} is pinged while Medic works")


def _partitions(ahead: int) -> Finding:
    if ahead < 0:
        return Finding("partitions", "fail", "today has none: heartbeats are refused; run `medic migrate`")
    verdict: Verdict = "ok" if ahead >= LEAST_AHEAD else "warn"
    hint = "" if verdict == "ok" else ": a worker on medic.housekeeping makes them; `medic migrate` does too"
    return Finding("partitions", verdict, f"{ahead} days ahead{hint}")


def _seals(late_s: float) -> Finding:
    if late_s > LATE_SEALS_S:
        text = f"an entry has waited {late_s:.0f} s for its seal: a worker on medic.system with MEDIC_AUDIT_KEY makes them"
        return Finding("audit log", "warn", text)
    return Finding("audit log", "ok", "what is older than a minute is sealed; `medic audit verify` reads it")


def _secrets_key(session: Session, settings: Settings) -> Finding:
    if settings.secrets_key is None:
        return Finding("secrets", "warn", "MEDIC_SECRETS_KEY is unset: secrets cannot be used")
    return _tried(
        "secrets", lambda: check_key(session, key_ring(settings)), "MEDIC_SECRETS_KEY fits the database"
    )


def _tried(name: str, check: Callable[[], object], fine: str) -> Finding:
    try:
        check()
    except MedicError as error:
        return Finding(name, "fail", str(error))
    return Finding(name, "ok", fine)
