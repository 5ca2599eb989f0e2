"""The settings as text: the table of the documentation, and what is in force here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from medic.settings import Settings
from medic.telemetry.redaction import redact_url

NOT_USED = "Read, not used by this version yet."
HIDDEN = "(set, not shown)"
_HARMLESS = re.compile(r"(host|port|sslmode|virtual_host)=")

_INTRODUCTION = """\
# Settings

<!-- Written by `medic doctor --settings-table`; a test compares it with the code. -->

Medic reads these variables once, at the start. A wrong value stops the start with a line that names the variable; an
empty value is an unset one. Booleans are `true` or `false`, times `90s`, `5m`, `2h` or a number of seconds. A variable
marked with * is a secret: it may come from a file instead, which `<NAME>_FILE` names. `medic doctor` shows what is in
force, without the secrets.

The command line itself reads `MEDIC_BASE_URL` and `MEDIC_API_KEY` (or `MEDIC_API_KEY_FILE`) to know its server.
"""

_ENV_INTRODUCTION = """\
# Every variable that Medic reads; written by `medic doctor --env-example`, and a test compares it with the code.
#
# Copy it to .env and fill in what should differ: an empty value means the default. docker/compose.yaml takes its
# values from there; Medic itself reads its environment, never a file. What is marked (secret) may come from a
# file instead, which <NAME>_FILE names.
"""
_ENV_TITLES = {
    "database": "Database", "redis": "Redis", "api": "Application", "monitoring": "Worker: monitoring",
    "retention": "Worker: retention", "playbooks": "Worker: playbooks", "notifications": "Slack and PagerDuty",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable that Medic reads."""

    name: str
    field: str
    section: str
    default: str
    help: str
    is_secret: bool
    is_used: bool


@dataclass(frozen=True, slots=True)
class InForce:
    """A variable's value as it may be shown, and whether somebody set it."""

    variable: Variable
    value: str
    is_set: bool


def variables() -> Iterator[Variable]:
    """Every variable, in the order of `Settings`."""
    for field, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        assert isinstance(extra, dict), field
        assert info.alias is not None, field
        yield Variable(
            name=info.alias,
            field=field,
            section=str(extra["section"]),
            default=_plain(info.default),
            help=info.description or "",
            is_secret=_is_secret(info),
            is_used=not extra.get("unused", False),
        )


def settings_document() -> str:
    """``docs/settings.md``."""
    lines = [_INTRODUCTION]
    section = None
    for variable in variables():
        if variable.section != section:
            section = variable.section
            title = "Redis" if section == "redis" else "API" if section == "api" else section.capitalize()
            lines += [*([""] if len(lines) > 1 else []), f"## {title}", "", "| variable | default | what it does |",
                      "| --- | --- | --- |"]  # fmt: skip
        star = "*" if variable.is_secret else ""
        default = f"`{variable.default}`" if variable.default else "unset"
        note = "" if variable.is_used else f" {NOT_USED}"
        text = (variable.help + note).replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{variable.name}`{star} | {default} | {text} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """``.env.example``."""
    lines = [_ENV_INTRODUCTION.rstrip()]
    section = None
    for variable in variables():
        if variable.section != section:
            section = variable.section
            lines += ["", f"# --- {_ENV_TITLES.get(section, section.capitalize())}"]
        default = f" Default: {variable.default}" if variable.default else ""
        secret = " (secret)" if variable.is_secret else ""
        lines += [f"# {variable.help}{default}{secret}", f"{variable.name}="]
    return "\n".join(lines) + "\n"


def in_force(settings: Settings, environ: Mapping[str, str]) -> list[InForce]:
    """What holds here, secrets masked."""
    return [
        InForce(
            variable,
            _shown(variable, getattr(settings, variable.field)),
            bool(environ.get(variable.name) or environ.get(f"{variable.name}_FILE")),
        )
        for variable in variables()
    ]


def masked_url(url: str) -> str:
    """A server's URL without its password, nor any option that could be one.

    Read by hand: libpq and kombu allow what no URL parser does, and a parser that errs shows a password.
    """
    scheme, sign, rest = url.partition("://")
    user_info, at, place = rest.rpartition("@")
    if not sign or "?" in user_info or "#" in user_info:
        return HIDDEN  # which @ ends the password cannot be told
    user, colon, _ = user_info.partition(":")
    # A word before the @ of a Redis URL is most often a password whose colon was forgotten.
    named = user + (":***" if colon else "") if scheme.startswith("postgres") else "***"
    shown = f"{named}@" if at else ""
    where, _, query = place.partition("#")[0].partition("?")
    options = "&".join(option for option in query.split("&") if _HARMLESS.match(option))
    return f"{scheme}://{shown}{where}{f'?{options}' if options else ''}"


def _shown(variable: Variable, value: Any) -> str:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        if variable.name == "MEDIC_WATCHDOG_URL":
            return redact_url(text)  # its path is what proves who pings
        return masked_url(text) if variable.name.endswith("_URL") else HIDDEN
    return _plain(value)


def _plain(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
    return str(value)


def _is_secret(info: FieldInfo) -> bool:
    return "SecretStr" in str(info.annotation)
