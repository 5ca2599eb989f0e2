"""The start of the API makes the default route of the settings, as soon as there is a database."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from medic import default_route
from medic.db import make_engine
from medic.migrate import upgrade
from medic.settings import Settings
from tests.api.caller import Api
from tests.waiting import eventually

PAGER = {"PAGERDUTY_ROUTING_KEY": "R" * 32}
TOLD = text("SELECT t.name FROM routes r JOIN route_targets x ON x.route_id = r.id JOIN targets t ON t.id = x.target_id"
            " WHERE r.is_default AND r.enabled")  # fmt: skip


def test_a_started_api_has_told_the_database(engine: Engine, environ: dict[str, str], admin: Api) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import medic_api.wsgi"], env=os.environ | environ | PAGER, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with engine.connect() as connection:
        assert connection.execute(TOLD).scalars().all() == ["pagerduty-default"]
    shown = admin("GET", "/v1/routes/default").get_json()
    assert (shown["default"], shown["from_settings"], shown["levels"]) == (
        True,
        True,
        [["pagerduty-default"]],
    )
    target = admin("GET", "/v1/targets/pagerduty-default")
    assert (target.get_json()["from_settings"], target.get_json()["secrets"]) == (True, ["routing_key"])
    assert PAGER["PAGERDUTY_ROUTING_KEY"] not in target.text
    assert admin("PUT", "/v1/targets/pagerduty-default", {"kind": "pagerduty"}).status_code == 409


@pytest.fixture
def bare_url(backends: Any) -> Iterator[str]:
    """A database that nobody migrated yet."""
    admin = create_engine(backends.database_url, isolation_level="AUTOCOMMIT")
    name = f"medic_bare_{secrets.token_hex(4)}"
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    yield make_url(backends.database_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


def test_a_database_that_comes_later_gets_its_default_route_then(
    bare_url: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_route, "AGAIN_S", 0.05)
    bare = make_engine(bare_url)
    default_route.keep_default_route(Settings.from_env(keys | PAGER), bare)
    upgrade(bare_url)

    def told() -> list[str]:
        try:
            with bare.connect() as connection:
                return list(connection.execute(TOLD).scalars())
        except DBAPIError:
            return []

    assert eventually(told) == ["pagerduty-default"]
    bare.dispose()
