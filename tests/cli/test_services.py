"""Services and heartbeats from the command line, on the real API."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from medic.cli.service import POLICY
from tests.cli.conftest import data_of


@pytest.fixture
def name() -> str:
    """A name of its own: the API remembers for seconds which service a name is."""
    return f"job-{secrets.token_hex(4)}"


def test_a_service_is_made_shown_listed_and_deleted(admin: Any, name: str) -> None:
    made = admin("service", "create", name, "--every", "5m", "--grace", "1m", "--tag", "db", "--tag", "eu")
    assert made.output == f"Service {name} is watched: every 5m, grace 1m.\n"
    shown = data_of(admin("service", "show", name, "--output", "json"))
    assert (shown["every"], shown["tags"], shown["status"]) == ("5m", ["db", "eu"], "new")
    assert f"{name}  new" in admin("service", "list", "--tag", "db").stdout
    assert [item["name"] for item in data_of(admin("service", "list", "--output", "json"))] == [name]
    assert admin("service", "delete", name).output == f"Service {name} is deleted.\n"
    gone = admin("service", "show", name)
    assert (gone.exit_code, gone.stdout) == (3, "")
    assert gone.stderr.startswith("medic: There is no service")


def test_what_is_not_given_stays(admin: Any, name: str) -> None:
    admin(
        "service",
        "create",
        name,
        "--every",
        "5m",
        "--description",
        "Old",
        "--priority",
        "p1",
        "--max-runtime",
        "1h",
    )
    assert admin("service", "change", name, "--grace", "2m", "--clear", "max-runtime").exit_code == 0
    changed = data_of(admin("service", "show", name, "--output", "json"))
    assert (changed["grace"], changed["priority"], changed["description"]) == ("2m", "p1", "Old")
    assert (changed["every"], changed["max_runtime"]) == ("5m", None)


def test_another_kind_of_schedule_takes_the_place_of_the_one_before(admin: Any, name: str) -> None:
    admin("service", "create", name, "--every", "5m")
    assert admin("service", "change", name, "--cron", "30 2 * * *", "--timezone", "Europe/Berlin").output == (
        f"Service {name} is changed: 30 2 * * * (Europe/Berlin), grace 1m.\n"
    )
    assert admin("service", "change", name, "--at-least", "3", "--within", "1h").exit_code == 0
    assert "at least 5 within 1h" in admin("service", "change", name, "--at-least", "5").output
    assert admin("service", "change", name).exit_code == 2


def test_the_policy_that_is_written_back_is_the_whole_of_it() -> None:
    """A field that the API knows and the command line does not would be lost by a change."""
    from medic_api.services import PolicyIn

    assert set(POLICY) == set(PolicyIn.model_fields)


def test_pause_and_resume(admin: Any, name: str) -> None:
    admin("service", "create", name, "--every", "5m")
    assert data_of(admin("service", "pause", name, "--output", "json"))["paused"] is True
    assert data_of(admin("service", "resume", name, "--output", "json"))["paused"] is False


def test_a_wrong_field_is_named(admin: Any, name: str) -> None:
    wrong = admin("service", "create", name, "--every", "soon", "--grace", "later")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert [line.split(":")[1].strip() for line in wrong.stderr.splitlines()] == ["every", "grace"]
    both = admin("service", "create", name, "--every", "5m", "--cron", "* * * * *")
    assert "exactly one of every, cron" in both.stderr


def test_a_name_that_is_none_never_reaches_a_path(admin: Any) -> None:
    for bad in ("..", "a/b", "UPPER", "-x"):
        assert admin("service", "show", "--", bad).exit_code == 2


def test_a_heartbeat_is_stored_and_may_make_its_service(admin: Any, name: str) -> None:
    unknown = admin("heartbeat", name)
    assert (unknown.exit_code, unknown.stdout) == (3, "")
    made = admin("heartbeat", name, "--create", "--every", "10m", "--grace", "30s", "--message", "hello")
    assert made.exit_code == 0, made.output
    assert made.output.endswith(f" of {name} stored.\n")
    shown = data_of(admin("service", "show", name, "--output", "json"))
    assert (shown["every"], shown["grace"], shown["last_signal"]) == ("10m", "30s", "ok")


def test_a_heartbeat_with_an_id_is_stored_once(admin: Any, name: str) -> None:
    once = (
        "heartbeat",
        name,
        "--create",
        "--id",
        "a1",
        "--exit-code",
        "3",
        "--run-id",
        "r",
        "--duration-ms",
        "5",
    )
    assert admin(*once).output.endswith(" stored.\n")
    assert admin(*once).output.endswith(" was stored before.\n")
    assert data_of(admin("service", "show", name, "--output", "json"))["last_signal"] == "fail"


def test_every_without_create_is_a_wrong_use(admin: Any, name: str) -> None:
    assert admin("heartbeat", name, "--every", "5m").exit_code == 2


def test_a_wrong_key_is_not_allowed_and_nobody_there_is_away(admin: Any) -> None:
    refused = admin("service", "list", MEDIC_API_KEY="mdk_wrong")
    assert (refused.exit_code, refused.stdout) == (4, "")
    away = admin("service", "list", "--url", "http://127.0.0.1:1")
    assert away.exit_code == 5
    assert "cannot be reached (Connection refused)" in away.stderr


def test_an_empty_list_says_what_to_do_next(admin: Any) -> None:
    empty = admin("service", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "medic service create" in empty.stderr


def test_a_list_that_is_cut_says_so(admin: Any, name: str) -> None:
    for number in range(3):
        admin("service", "create", f"{name}-{number}", "--every", "5m")
    cut = admin("service", "list", "--limit", "2", "--output", "json")
    assert len(data_of(cut)) == 2
    assert "more than these 2" in cut.stderr


def test_how_a_service_was_is_shown_by_day(admin: Any, name: str) -> None:
    admin("service", "create", name, "--every", "5m")
    admin("heartbeat", name)
    found = data_of(admin("service", "stats", name, "--days", "2", "--output", "json"))
    assert (found["heartbeats"], found["runs"]["count"]) == (1, 0)
    shown = admin("service", "stats", name)
    assert shown.exit_code == 0, shown.output
    table = shown.stdout.split("\n\n")[1].splitlines()
    assert table[0].split("  ")[0] == "DAY"
    assert table[1].startswith(found["days"][0]["day"])
    assert admin("service", "stats", name, "--days", "0").exit_code == 2
