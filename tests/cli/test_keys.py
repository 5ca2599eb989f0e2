"""Keys from the command line: over the API, and without any key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from medic.times import parse_time
from tests.cli.conftest import data_of


def test_a_key_is_made_used_listed_and_revoked(admin: Any) -> None:
    made = data_of(
        admin("key", "create", "--scope", "services:read", "--name", "reader", "--service-pattern", "db-*",
              "--expires-in", "90d", "--output", "json")
    )  # fmt: skip
    assert (made["scopes"], made["service_patterns"]) == (["services:read"], ["db-*"])
    ends = parse_time(made["expires_at"])
    assert abs(ends - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    assert admin("service", "list", MEDIC_API_KEY=made["key"]).exit_code == 0
    forbidden = admin("service", "create", "db-1", "--every", "5m", MEDIC_API_KEY=made["key"])
    assert forbidden.exit_code == 4
    assert "services:write" in forbidden.stderr
    assert made["key"] not in admin("key", "list", "--output", "json").stdout
    listed = admin("key", "list").stdout
    assert "reader" in listed
    assert "USED" in listed
    assert admin("key", "revoke", made["id"]).exit_code == 0
    assert admin("service", "list", MEDIC_API_KEY=made["key"]).exit_code == 4


def test_a_key_is_rotated_with_an_overlap(admin: Any) -> None:
    old = data_of(admin("key", "create", "--scope", "services:read", "--output", "json"))
    made = admin("key", "rotate", old["id"], "--overlap", "2h")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("mdk_")
    assert made.stdout.count("\n") == 1
    assert old["id"] in made.stderr
    new = made.stdout.strip()
    for key in (old["key"], new):
        assert admin("service", "list", MEDIC_API_KEY=key).exit_code == 0
    listed = {key["id"]: key for key in data_of(admin("key", "list", "--output", "json"))}
    ends = parse_time(listed[old["id"]]["expires_at"])
    assert abs(ends - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=5)
    again = admin("key", "rotate", old["id"])
    assert (again.exit_code, again.stdout) == (1, "")
    assert new[4:16] in again.stderr
    last = data_of(
        admin("key", "rotate", new[4:16], "--overlap", "0", "--expires-in", "1d", "--output", "json")
    )
    assert last["replaces"] == new[4:16]
    assert admin("service", "list", MEDIC_API_KEY=new).exit_code == 4
    assert admin("service", "list", MEDIC_API_KEY=last["key"]).exit_code == 0
    assert admin("key", "rotate", last["id"], "--overlap", "31d").exit_code == 1
    assert admin("key", "rotate", last["id"], "--expires-in", "0").exit_code == 1


def test_only_the_key_goes_to_standard_output(admin: Any) -> None:
    made = admin("key", "create", "--admin")
    assert made.exit_code == 0
    assert made.stdout.startswith("mdk_")
    assert made.stdout.count("\n") == 1
    assert admin("key", "list", MEDIC_API_KEY=made.stdout.strip()).exit_code == 0


def test_a_lost_admin_key_is_replaced_in_the_database(medic: Any, api: Any, engine: Engine) -> None:
    made = medic("key", "create", "--admin", "--name", "again", "--output", "json", **api.environ)
    key = data_of(made)["key"]
    assert "written to the database itself" in made.stderr
    assert medic("key", "list", MEDIC_BASE_URL=api.url, MEDIC_API_KEY=key).exit_code == 0
    with engine.connect() as connection:
        actor, action = connection.execute(text("SELECT actor_kind, action FROM audit_entries")).one()
    assert (actor, action) == ("shell", "key.create")


def test_with_an_api_that_is_away_it_is_replaced_too(
    medic: Any, environ: dict[str, str], engine: Engine
) -> None:
    made = medic("key", "create", "--admin", "--url", "http://127.0.0.1:1", "--expires-in", "1d", **environ)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("mdk_")


def test_without_a_database_the_refusal_of_the_api_is_told(medic: Any, api: Any) -> None:
    refused = medic("key", "create", "--admin", MEDIC_BASE_URL=api.url, MEDIC_API_KEY="mdk_lost")
    assert refused.exit_code == 4
    assert medic("key", "create", "--admin").exit_code == 78


def test_another_key_than_an_admins_never_goes_past_the_api(medic: Any, api: Any, engine: Engine) -> None:
    refused = medic("key", "create", "--scope", "admin", **api.environ)
    assert (refused.exit_code, refused.stdout) == (4, "")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM api_keys")).scalar_one() == 0


def test_a_key_says_what_it_may_do(admin: Any) -> None:
    assert admin("key", "create").exit_code == 2
    assert admin("key", "create", "--admin", "--scope", "services:read").exit_code == 2
    assert admin("key", "create", "--admin", "--service-pattern", "a").exit_code == 2
    unknown = admin("key", "create", "--scope", "everything")
    assert unknown.exit_code == 1
    assert "scopes: must be some of" in unknown.stderr
    assert admin("key", "create", "--admin", "--expires-in", "soon").exit_code == 1
