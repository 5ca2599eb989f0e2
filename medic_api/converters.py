"""What may stand in a path: anything else is no address of ours, and answers 404 before any view runs."""

from __future__ import annotations

from typing import Any

from flask import Flask
from werkzeug.routing import BaseConverter, IntegerConverter, Map

from medic.hook_store import TOKEN
from medic.teams import PING_KEY
from medic_api.fields import MAX_ID


class NameConverter(BaseConverter):
    """A service, playbook or script."""

    regex = r"[a-z0-9][a-z0-9._-]{0,127}"
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class SecretNameConverter(BaseConverter):
    regex = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class KeyIdConverter(BaseConverter):
    regex = r"[0-9A-Za-z]{12}"
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class SlackIdConverter(BaseConverter):
    """Somebody of Slack, as U0123456789."""

    regex = r"[A-Z0-9]{1,64}"
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class IdConverter(IntegerConverter):
    """A row's number; one that PostgreSQL cannot hold names no row."""

    regex = r"[1-9][0-9]{0,18}"
    schema: dict[str, Any] = {  # noqa: RUF012 - read only
        "type": "integer",
        "format": "int64",
        "minimum": 1,
        "maximum": MAX_ID,
    }

    def __init__(self, map: Map) -> None:  # noqa: A002 - Werkzeug's name
        super().__init__(map, max=MAX_ID)


class SignalConverter(BaseConverter):
    """What a path form says: a word, or an exit code."""

    regex = r"start|complete|fail|log|25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]"
    schema: dict[str, Any] = {  # noqa: RUF012 - read only
        "type": "string",
        "pattern": f"^({regex})$",
        "examples": ["start", "complete", "fail", "log", "0", "3"],
    }


class PingSignalConverter(BaseConverter):
    """What a ping URL says; a number over 255 is the view's to refuse."""

    regex = r"start|fail|log|[0-9]+"
    schema: dict[str, Any] = {  # noqa: RUF012 - read only
        "type": "string",
        "pattern": f"^({regex})$",
        "examples": ["start", "fail", "log", "0", "3"],
    }


class LegacySignalConverter(BaseConverter):
    regex = r"start|complete|fail"
    schema: dict[str, Any] = {"type": "string", "enum": ["start", "complete", "fail"]}  # noqa: RUF012 - read only


class PingKeyConverter(BaseConverter):
    regex = PING_KEY
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class HookTokenConverter(BaseConverter):
    regex = TOKEN
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{regex}$"}  # noqa: RUF012 - read only


class LegacyNameConverter(BaseConverter):
    """A name as the original took it."""

    regex = r"[^/]{1,255}"
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 255}  # noqa: RUF012 - read only


UUID_SCHEMA = {"type": "string", "format": "uuid"}


def install(app: Flask) -> None:
    app.url_map.converters |= {
        "name": NameConverter,
        "secret": SecretNameConverter,
        "key": KeyIdConverter,
        "slack_id": SlackIdConverter,
        "id": IdConverter,
        "signal": SignalConverter,
        "ping_signal": PingSignalConverter,
        "ping_key": PingKeyConverter,
        "hook_token": HookTokenConverter,
        "legacy_name": LegacyNameConverter,
        "legacy_signal": LegacySignalConverter,
    }
