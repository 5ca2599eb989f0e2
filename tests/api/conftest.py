"""The application on real servers, with keys: one for everything, narrow ones, and none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from medic import audit
from medic import settings as settings_
from medic.access import create_key
from medic.db import database_now, in_transaction
from medic.db import engine as process_engine
from medic.settings import Settings
from medic_api.app import create_app
from tests.api.caller import PLAYBOOK, Api, MakeApi, MakeKey

SHELL = audit.Actor("shell", "test")


@pytest.fixture
def settings(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """This process's settings, of the test's environment; limits high enough to stay out of the way."""
    limits = {
        f"RATE_LIMIT_{name}_REQUESTS": "100000" for name in ("MANAGEMENT", "TRIGGER", "DOCS", "HEARTBEAT")
    }
    limits["MEDIC_WEBHOOK_SECRET"] = "a secret of the tests, the next one"
    limits["SLACK_SIGNING_SECRET"] = "the newer secret, the older secret"
    for name, value in (environ | limits).items():
        monkeypatch.setenv(name, value)
    caches: tuple[Any, ...] = (settings_.current, process_engine)
    for cache in caches:
        cache.cache_clear()
    yield settings_.current()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def app(engine: Engine, settings: Settings) -> Iterator[APIFlask]:
    made = create_app(settings, engine=engine)
    made.testing = False  # errors are answers, as in life
    yield made
    made.extensions["medic"].heartbeats.close()
    made.extensions["medic"].hints.close()


@pytest.fixture
def make_key(engine: Engine, settings: Settings) -> MakeKey:
    """A key with these scopes, for services of these patterns."""

    def make(*scopes: str, patterns: list[str] | None = None, **more: Any) -> str:
        def work(session: Session) -> str:
            return create_key(
                session, name="test", scopes=list(scopes), pepper=settings.need_pepper(), actor=SHELL,
                now=database_now(session), service_patterns=patterns, **more,
            )[1].get_secret_value()  # fmt: skip

        return in_transaction(engine, work)

    return make


@pytest.fixture
def api_with(app: APIFlask, make_key: MakeKey) -> MakeApi:
    """A caller whose key has these scopes."""

    def make(*scopes: str, patterns: list[str] | None = None) -> Api:
        return Api(app.test_client(), make_key(*scopes, patterns=patterns))

    return make


@pytest.fixture
def admin(api_with: MakeApi) -> Api:
    return api_with("admin")


@pytest.fixture
def outsider(app: APIFlask) -> Api:
    return Api(app.test_client(), None)


@pytest.fixture
def web(admin: Api) -> Api:
    """The admin, with a service ``web`` to work on."""
    assert admin("POST", "/v1/services", {"name": "web", "every": "5m"}).status_code == 201
    return admin


@pytest.fixture
def restart(web: Api) -> Api:
    """The admin, with a service ``web`` and a playbook ``restart``."""
    assert web.put_yaml("/v1/playbooks/restart", PLAYBOOK).status_code == 201
    return web
