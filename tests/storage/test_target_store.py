"""Targets in the database, and the route that the settings make."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import default_route, route_store, startup, target_store
from medic.audit import Actor
from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import SealBroken
from medic.db import in_transaction
from medic.default_route import ensure_default_route
from medic.errors import Conflict, Invalid, Misconfigured
from medic.models.alerting import Target
from medic.settings import Settings
from medic.target_store import Wish

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ACTOR = Actor("key", "abc")
ONE = base64.b64encode(b"1" * 32).decode()
TWO = base64.b64encode(b"2" * 32).decode()
SIGNING = "whsec_" + base64.b64encode(b"s" * 32).decode()


def ring(written: str = ONE) -> KeyRing:
    return KeyRing.parse(SecretStr(written))


def webhook(url: str = "https://hooks.example.com/medic", **secrets: str | None) -> Wish:
    given = {name: SecretStr(value) if value is not None else None for name, value in secrets.items()}
    return Wish("webhook", {"url": url}, given)


def put(
    engine: Engine, wish: Wish, name: str = "hook", keys: Callable[[], KeyRing] = ring, **more: Any
) -> Target:
    return in_transaction(
        engine, lambda s: target_store.put(s, keys, name=name, wish=wish, actor=ACTOR, now=NOW, **more)[0]
    )


def reveal(engine: Engine, name: str = "hook", keys: KeyRing | None = None) -> dict[str, str]:
    def work(session: Session) -> dict[str, str]:
        found = target_store.view(target_store.find(session, name), keys or ring())
        return {key: value.get_secret_value() for key, value in found.secrets.items()}

    return in_transaction(engine, work)


def no_ring() -> KeyRing:
    raise Misconfigured("MEDIC_SECRETS_KEY: must be set")


def test_a_secret_opens_for_its_target_alone_and_stands_nowhere_in_the_database(engine: Engine) -> None:
    target = put(engine, webhook(signing_secret=SIGNING, bearer="correct-horse"))
    assert target_store.secret_names(target) == ["bearer", "signing_secret"]
    assert reveal(engine) == {"bearer": "correct-horse", "signing_secret": SIGNING}
    with engine.connect() as connection:
        for table in ("targets", "audit_entries"):
            row = str(connection.execute(text(f"SELECT t::text FROM {table} t")).scalar())
            assert "correct-horse" not in row
            assert b"correct-horse".hex() not in row
    put(engine, webhook(bearer="another-horse"), "other")
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE targets SET sealed = (SELECT sealed FROM targets WHERE name = 'hook') WHERE name = 'other'"
            )
        )
    with pytest.raises(SealBroken):
        reveal(engine, "other")
    with pytest.raises(Misconfigured):
        reveal(engine, keys=ring(TWO))


def test_what_is_not_sent_stays_and_null_takes_away(engine: Engine) -> None:
    sealed = put(engine, webhook(signing_secret=SIGNING, bearer="first-token")).sealed
    assert put(engine, webhook()).sealed == sealed
    put(engine, webhook(bearer="second-token"))
    assert reveal(engine) == {"bearer": "second-token", "signing_secret": SIGNING}
    put(engine, webhook(signing_secret=None))
    assert reveal(engine) == {"bearer": "second-token"}
    assert put(engine, webhook(bearer=None)).sealed is None


def test_a_secret_does_not_follow_its_target_to_another_address(engine: Engine) -> None:
    put(engine, webhook(bearer="first-token"))
    with pytest.raises(Invalid, match="bearer must be sent again"):
        put(engine, webhook("https://thief.example.com/"))
    with pytest.raises(Invalid, match="bearer must be sent again"):
        put(engine, Wish("webhook", {}, {"url": SecretStr("https://thief.example.com/")}))
    assert reveal(engine) == {"bearer": "first-token"}
    put(engine, webhook("https://new.example.com/", bearer="first-token"))
    put(engine, webhook("https://other.example.com/", bearer=None))
    assert reveal(engine) == {}
    put(engine, webhook(bearer="first-token"))
    put(engine, Wish("pagerduty", {}, {"routing_key": SecretStr("R" * 32)}))
    assert reveal(engine) == {"routing_key": "R" * 32}


def test_a_target_without_secrets_needs_no_key(engine: Engine) -> None:
    assert put(engine, webhook(), keys=no_ring).sealed is None
    put(engine, webhook(bearer="first-token"))
    with pytest.raises(Misconfigured):
        put(engine, webhook(), keys=no_ring)


def test_a_change_and_an_enable_put_a_disabled_target_back(engine: Engine) -> None:
    for mend in (
        lambda: put(engine, webhook()),
        lambda: in_transaction(engine, lambda s: target_store.enable(s, name="hook", actor=ACTOR, now=NOW)),
    ):
        put(engine, webhook())
        disable(engine, "hook")
        assert mend().disabled_at is None


def test_a_deleted_targets_messages_fail_and_a_route_keeps_it(engine: Engine) -> None:
    put(engine, webhook())
    in_transaction(
        engine,
        lambda s: route_store.put(s, name="all", wish=route_store.Wish((("hook",),)), actor=ACTOR, now=NOW),
    )
    with pytest.raises(Conflict, match="all"):
        remove(engine, "hook")
    in_transaction(engine, lambda s: route_store.remove(s, name="all", actor=ACTOR, now=NOW))
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO deliveries (uuid, target_id, kind, due_at, created_at)"
                " SELECT gen_random_uuid(), id, 'test', now(), now() FROM targets"
            )
        )
    remove(engine, "hook")
    with engine.connect() as connection:
        row = connection.execute(text("SELECT state, due_at, error FROM deliveries")).one()
    assert tuple(row) == ("failed", None, "The target was deleted.")


def disable(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE targets SET disabled_at = now(), disabled_reason = 'invalid_auth' WHERE name = :name"
            ),
            {"name": name},
        )


def remove(engine: Engine, name: str) -> None:
    in_transaction(engine, lambda s: target_store.remove(s, name=name, actor=ACTOR, now=NOW))


# --- the settings' own

SLACK = {"SLACK_API_TOKEN": "xoxb-one-token", "SLACK_CHANNEL_ID": "C0123456789"}
PAGER = {"PAGERDUTY_ROUTING_KEY": "R" * 32}


def ensure(engine: Engine, **environ: str) -> None:
    settings = Settings.from_env({"MEDIC_SECRETS_KEY": ONE, **environ})
    default_route.check(settings)
    in_transaction(engine, lambda s: ensure_default_route(s, settings, ring, now=NOW))


def routes(engine: Engine) -> dict[str, tuple[bool, bool, list[list[str]]]]:
    """By name: whether it is on, whether it is the default, whom it tells."""
    shown = in_transaction(engine, lambda s: route_store.page(s, after=None, limit=10))
    return {item.route.name: (item.route.enabled, item.route.is_default, item.levels) for item in shown}


def targets(engine: Engine) -> dict[str, tuple[int, str | None]]:
    rows = in_transaction(engine, lambda s: target_store.page(s, after=None, limit=10))
    return {target.name: (target.version, target.disabled_reason) for target in rows}


def test_the_settings_make_a_route_once(engine: Engine) -> None:
    ensure(engine)
    assert (targets(engine), routes(engine)) == ({}, {})
    ensure(engine, **SLACK, **PAGER)
    first = targets(engine)
    assert routes(engine) == {"default": (True, True, [["slack-default", "pagerduty-default"]])}
    assert reveal(engine, "slack-default") == {"token": "xoxb-one-token"}
    ensure(engine, **SLACK, **PAGER)
    assert targets(engine) == first
    with engine.connect() as connection:
        actions = connection.execute(text("SELECT action || ' ' || actor FROM audit_entries")).scalars().all()
    assert sorted(actions) == [
        "route.change medic", "route.create medic", "target.create medic", "target.create medic",
    ]  # fmt: skip


def test_a_changed_setting_changes_its_target_and_an_unchanged_one_leaves_it(engine: Engine) -> None:
    ensure(engine, **SLACK, **PAGER)
    disable(engine, "slack-default")
    ensure(engine, **SLACK, **PAGER)
    assert targets(engine)["slack-default"] == (1, "invalid_auth")
    ensure(engine, **SLACK | {"SLACK_API_TOKEN": "xoxb-two-token"}, **PAGER)
    assert targets(engine) == {"pagerduty-default": (1, None), "slack-default": (2, None)}
    assert reveal(engine, "slack-default") == {"token": "xoxb-two-token"}
    ensure(engine, **SLACK | {"SLACK_CHANNEL_ID": "C9"}, **PAGER)
    assert targets(engine)["slack-default"] == (3, None)


def test_what_is_unset_is_told_no_more_and_comes_back(engine: Engine) -> None:
    ensure(engine, **SLACK, **PAGER)
    ensure(engine, **PAGER)
    assert targets(engine)["slack-default"] == (2, target_store.NOT_SET)
    assert routes(engine) == {"default": (True, True, [["pagerduty-default"]])}
    with pytest.raises(Conflict):
        in_transaction(engine, lambda s: target_store.enable(s, name="slack-default", actor=ACTOR, now=NOW))
    ensure(engine)
    assert routes(engine) == {"default": (False, False, [])}
    ensure(engine, **SLACK)
    assert routes(engine) == {"default": (True, True, [["slack-default"]])}
    assert targets(engine)["slack-default"] == (3, None)
    ensure(engine)
    remove(engine, "slack-default")
    ensure(engine, **SLACK)
    assert targets(engine)["slack-default"] == (1, None)


def test_the_route_of_the_settings_stands_back_for_one_of_people(engine: Engine) -> None:
    ensure(engine, **SLACK)
    put(engine, webhook())
    own = route_store.Wish((("hook",),), is_default=True)
    in_transaction(engine, lambda s: route_store.create(s, name="ours", wish=own, actor=ACTOR, now=NOW))
    after = {"default": (False, False, [["slack-default"]]), "ours": (True, True, [["hook"]])}
    assert routes(engine) == after
    ensure(engine, **SLACK)
    assert routes(engine) == after
    in_transaction(engine, lambda s: route_store.remove(s, name="ours", actor=ACTOR, now=NOW))
    assert routes(engine) == {"default": (True, True, [["slack-default"]])}


def test_nobody_else_makes_or_changes_what_is_the_settings(engine: Engine) -> None:
    with pytest.raises(Conflict, match="SLACK_API_TOKEN"):
        put(engine, webhook(), "slack-default")
    ensure(engine, **SLACK)
    number = in_transaction(engine, lambda s: target_store.find(s, "slack-default").id)
    for name in ("slack-default", str(number)):
        with pytest.raises(Conflict, match="SLACK_API_TOKEN"):
            put(engine, webhook(), name)
        with pytest.raises(Conflict, match="SLACK_API_TOKEN"):
            remove(engine, name)
    wish = route_store.Wish((("slack-default",),))
    with pytest.raises(Conflict, match="settings"):
        in_transaction(engine, lambda s: route_store.put(s, name="default", wish=wish, actor=ACTOR, now=NOW))
    in_transaction(engine, lambda s: route_store.put(s, name="mine", wish=wish, actor=ACTOR, now=NOW))
    assert routes(engine)["mine"] == (True, False, [["slack-default"]])


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"SLACK_API_TOKEN": "xoxb-1"}, "SLACK_CHANNEL_ID"),
        ({"SLACK_CHANNEL_ID": "C1"}, "SLACK_API_TOKEN"),
        (SLACK | {"SLACK_CHANNEL_ID": "two words"}, "SLACK_CHANNEL_ID"),
        ({"PAGERDUTY_ROUTING_KEY": "two words"}, "PAGERDUTY_ROUTING_KEY"),
        (PAGER | {"MEDIC_SECRETS_KEY": ""}, "MEDIC_SECRETS_KEY"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_name(environ: dict[str, str], named: str) -> None:
    with pytest.raises(Misconfigured, match=named) as refused:
        default_route.check(Settings.from_env({"MEDIC_SECRETS_KEY": ONE} | environ))
    assert "two words" not in str(refused.value)


def test_a_key_that_sealed_a_target_and_is_gone_stops_the_start(
    engine: Engine, environ: dict[str, str]
) -> None:
    put(engine, webhook(bearer="first-token"))
    given = Settings.from_env(environ | {"MEDIC_RATE_LIMITER_TYPE": "memory", "MEDIC_SECRETS_KEY": TWO})
    with pytest.raises(Misconfigured, match="holds no key"):
        startup.check(given, engine)
