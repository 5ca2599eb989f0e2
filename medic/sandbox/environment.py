"""The environment of a script: an allow-list, Medic's three ids, and the step's variables.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from medic.errors import Invalid, Misconfigured, Problem
from medic.settings import Settings

ALLOWED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ")
"""Variables of the worker that every script sees, where they are set."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDS = ("MEDIC_EXECUTION_ID", "MEDIC_PLAYBOOK_ID", "MEDIC_SERVICE_ID")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# PG: libpq's own variables, as PGPASSWORD. OTEL_…_HEADERS carry a collector's token.
_REFUSED = re.compile(
    r"AWS_.*|PG[A-Z].*|DB_.*|REDIS_.*|VALKEY_.*|CELERY_.*|.*(?:DATABASE|REDIS|VALKEY|BROKER)_(?:URL|PASSWORD)"
    r"|OTEL_EXPORTER_OTLP_(?:\w+_)?HEADERS"
)


def _settings_of_medic() -> frozenset[str]:
    """Every secret setting, and all that tells where and as whom Medic reaches its database and Redis."""
    names = set()
    for field in Settings.model_fields.values():
        extra = field.json_schema_extra
        section = extra.get("section") if isinstance(extra, dict) else None
        if "SecretStr" in str(field.annotation) or section in {"database", "redis"}:
            names.add(str(field.alias))
    return frozenset(names)


_OWN = _settings_of_medic()


def check_additional_names(names: Iterable[str]) -> None:
    """Check MEDIC_ADDITIONAL_SCRIPT_ENV_VARS, at the start; blanks are ignored.

    :raises Misconfigured: when a name is none, or names a secret of Medic, its ``_FILE`` form, a variable
        of the database, of Redis or of AWS.
    """
    for name in filter(None, map(str.strip, names)):
        if not _NAME.fullmatch(name):
            raise Misconfigured(f"MEDIC_ADDITIONAL_SCRIPT_ENV_VARS: {name!r} is not the name of a variable")
        bare = name.upper().removesuffix("_FILE")
        if bare in _OWN or _REFUSED.fullmatch(name.upper()):
            raise Misconfigured(
                f"MEDIC_ADDITIONAL_SCRIPT_ENV_VARS: {name} holds a secret of Medic; scripts never see it. "
                "Take it out of the list, and give the script a secret of its own."
            )


def build_environment(
    *,
    worker: Mapping[str, str],
    additional: Sequence[str],
    execution_id: UUID | int | str,
    playbook_id: UUID | int | str,
    service_id: UUID | int | str | None,
    variables: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of one script.

    Later wins: the worker's allowed variables, the step's variables, Medic's ids.  The three ids are always
    there; without a service MEDIC_SERVICE_ID is empty.

    :param worker: the worker's environment; nothing but the allow-list is read from it.
    :param additional: MEDIC_ADDITIONAL_SCRIPT_ENV_VARS; those that are unset are left out.
    :raises Invalid: when a variable's name or value cannot stand in an environment.
    :raises Misconfigured: as `check_additional_names`.
    """
    check_additional_names(additional)
    problems = []
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            problems.append(Problem(f"variables.{name}", "is not the name of an environment variable"))
        elif name in IDS:
            problems.append(Problem(f"variables.{name}", "is set by Medic; choose another name"))
        elif "\0" in value:
            problems.append(Problem(f"variables.{name}", "has a NUL in it, which no environment can hold"))
    if problems:
        raise Invalid(f"{problems[0].path}: {problems[0].message}", problems=tuple(problems))
    names = (*ALLOWED, *filter(None, map(str.strip, additional)))
    ids = (execution_id, playbook_id, "" if service_id is None else service_id)
    return (
        {"PATH": DEFAULT_PATH}
        | {name: worker[name] for name in names if name in worker}
        | dict(variables)
        | {name: str(value) for name, value in zip(IDS, ids, strict=True)}
    )
