"""Statements that are planned once per connection: of a short one, planning is the greater part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult

_NAME = re.compile(r"(?<!:):([a-z_]+)\b")


class Prepared:
    """A statement with named values, each with its type in PostgreSQL.

    An expanding migration may pass under it: PostgreSQL plans it anew when a table changed, and only the columns that
    it gives must stay.

    :param name: unique in the house.
    :param sql: with ``:name`` where a value stands.
    :param types: PostgreSQL's, by the value's name.
    """

    def __init__(self, name: str, sql: str, types: Mapping[str, str]) -> None:
        names = list(types)
        numbers = {value: number for number, value in enumerate(names, start=1)}
        body = _NAME.sub(lambda found: f"${numbers[found[1]]}", sql)
        self._names = names
        self._key = f"medic_{name}"
        # The driver reads % as the place of a value.
        self._prepare = f"PREPARE {self._key} ({', '.join(types.values())}) AS {body}".replace("%", "%%")
        self._execute = f"EXECUTE {self._key} ({', '.join(['%s'] * len(names))})"

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Run it; JSON is given as text."""
        if self._key not in connection.info:
            connection.exec_driver_sql(self._prepare)
            connection.info[self._key] = True
        return connection.exec_driver_sql(self._execute, tuple([values[name] for name in self._names]))
