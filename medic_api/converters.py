"""What may stand in a path: anything else is no address of ours, and answers 404 before any view runs."""

from __future__ import annotations

from typing import Any

from flask import Flask
from werkzeug.routing import BaseConverter, IntegerConverter, Map

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


UUID_SCHEMA = {"type": "string", "format": "uuid"}


def install(app: Flask) -> None:
    app.url_map.converters |= {
        "name": NameConverter,
        "secret": SecretNameConverter,
        "key": KeyIdConverter,
        "id": IdConverter,
    }
