"""Playbooks, scripts and services: each change is a version, and an entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic import playbooks, scripts, services, stop
from medic.audit import Actor
from medic.db import in_transaction
from medic.dependencies import names_around
from medic.errors import Conflict, Invalid, NotFound, PreconditionFailed
from medic.playbook.grammar import parse
from medic.service_policy import Policy
from medic.steps import load_types
from medic.times import MAX_DURATION

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ACTOR = Actor("key", "abc", source="10.0.0.1", request_id="r1")
STEPS = "steps:\n  - {name: pause, type: wait, duration: 1m}\n"
FIX = f"name: fix\n{STEPS}"
ARMED = f'name: fix\ntrigger: {{service_pattern: "*"}}\n{STEPS}'


@pytest.fixture
def do(engine: Engine) -> Callable[..., Any]:
    def run(work: Callable[..., Any], **rest: Any) -> Any:
        return in_transaction(engine, lambda s: work(s, actor=ACTOR, now=NOW, **rest))

    return run


def log(engine: Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT action, object_id FROM audit_entries ORDER BY id")).all()
    return [(row[0], row[1]) for row in rows]


def put(do: Callable[..., Any], source: str, name: str = "fix", **rest: Any) -> Any:
    parsed = parse(source, load_types(), longest_step=MAX_DURATION)
    return do(playbooks.put, name=name, source=source, parsed=parsed, **rest)


def test_a_playbook_keeps_each_version(engine: Engine, do: Callable[..., Any]) -> None:
    assert put(do, FIX).playbook.version == 1
    assert put(do, FIX).playbook.version == 1, "the same text makes none"
    assert put(do, ARMED).playbook.version == 2
    stored = in_transaction(engine, lambda s: playbooks.find(s, "fix", version=1))
    assert stored.version.source == FIX
    assert in_transaction(engine, lambda s: playbooks.find(s, "fix")).version.source == ARMED
    with pytest.raises(NotFound):
        in_transaction(engine, lambda s: playbooks.find(s, "fix", version=3))
    assert log(engine) == [("playbook.put", "fix")] * 2


def test_a_playbook_changed_meanwhile_is_not_overwritten(do: Callable[..., Any]) -> None:
    with pytest.raises(PreconditionFailed):
        put(do, FIX, if_match=1)
    put(do, FIX)
    put(do, ARMED, if_match=1)
    with pytest.raises(PreconditionFailed):
        put(do, FIX, if_match=1)


def test_a_playbook_is_called_as_its_address_says(do: Callable[..., Any]) -> None:
    with pytest.raises(Invalid, match="name"):
        put(do, FIX, name="other")


def test_a_playbooks_own_trigger_comes_and_goes_with_its_text(engine: Engine, do: Callable[..., Any]) -> None:
    for source, patterns in (
        (ARMED, ["*"]),
        (ARMED.replace('"*"', '"web-*"'), ["web-*"]),
        (FIX, []),
        (ARMED, ["*"]),
    ):
        put(do, source)
        with engine.connect() as connection:
            assert (
                connection.execute(text("SELECT service_pattern FROM triggers")).scalars().all() == patterns
            )


def test_a_deleted_playbook_frees_its_name_and_keeps_its_versions(
    engine: Engine, do: Callable[..., Any]
) -> None:
    put(do, ARMED)
    do(playbooks.remove, name="fix")
    with pytest.raises(NotFound):
        in_transaction(engine, lambda s: playbooks.find(s, "fix"))
    with pytest.raises(NotFound):
        do(playbooks.remove, name="fix")
    assert put(do, FIX).playbook.version == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM playbook_versions")).scalar() == 2
        assert connection.execute(text("SELECT count(*) FROM triggers")).scalar() == 0
    assert log(engine) == [("playbook.put", "fix"), ("playbook.delete", "fix"), ("playbook.put", "fix")]


def test_a_playbook_deleted_and_made_again_in_one_transaction(engine: Engine, do: Callable[..., Any]) -> None:
    put(do, ARMED)
    parsed = parse(FIX, load_types(), longest_step=MAX_DURATION)

    def both(session: Any) -> int:
        playbooks.remove(session, name="fix", actor=ACTOR, now=NOW)
        made = playbooks.put(session, name="fix", source=FIX, parsed=parsed, actor=ACTOR, now=NOW)
        return made.playbook.version

    assert in_transaction(engine, both) == 1


def test_versions_put_at_once_are_numbered_one_by_one(do: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(lambda n: put(do, f"{FIX}# {n}\n").version.version, range(8)))
    assert sorted(stored) == list(range(1, 9))


def script(do: Callable[..., Any], content: str, **rest: Any) -> Any:
    given = {"interpreter": "bash", "parameters": {}, "network": False, "description": "", **rest}
    return do(scripts.put, name="restart", content=content, **given)


def test_a_script_keeps_each_version(engine: Engine, do: Callable[..., Any]) -> None:
    assert script(do, "true")[1].version == 1
    assert script(do, "true", description="new words")[1].version == 1
    assert script(do, "true", network=True)[1].version == 2
    assert script(do, "false", network=True)[1].version == 3
    found, version = in_transaction(engine, lambda s: scripts.find(s, "restart"))
    assert (found.version, version.content, version.network) == (3, "false", True)
    assert log(engine) == [("script.put", "restart")] * 3
    with pytest.raises(NotFound):
        in_transaction(engine, lambda s: scripts.find(s, "nope"))


def test_the_newest_script_is_there_for_the_same_transaction(engine: Engine, do: Callable[..., Any]) -> None:
    script(do, "true")

    def both(session: Any) -> str:
        scripts.put(
            session, name="restart", interpreter="bash", content="false", parameters={}, network=False,
            description="", actor=ACTOR, now=NOW,
        )  # fmt: skip
        return scripts.find(session, "restart")[1].content

    assert in_transaction(engine, both) == "false"


def create(do: Callable[..., Any], name: str = "web", **policy: Any) -> Any:
    return do(services.create, name=name, policy=Policy(**{"every_s": 60, **policy}))


def test_a_name_is_taken_once(engine: Engine, do: Callable[..., Any]) -> None:
    create(do)
    with pytest.raises(Conflict, match="web"):
        create(do)
    assert log(engine) == [("service.create", "web")]


@pytest.mark.parametrize("name", ["batch", "start", "complete", "fail", "log", "7", "Web", "", "a b"])
def test_a_name_that_cannot_be_kept_is_invalid_and_not_taken(do: Callable[..., Any], name: str) -> None:
    with pytest.raises(Invalid):
        create(do, name)


def test_each_change_of_a_service_is_a_version(engine: Engine, do: Callable[..., Any]) -> None:
    assert create(do).policy_version == 1
    changed = do(services.change, name="web", policy=Policy(every_s=30), if_match=1)
    assert changed.policy_version == 2
    with pytest.raises(PreconditionFailed):
        do(services.change, name="web", policy=Policy(every_s=20), if_match=1)
    with pytest.raises(NotFound):
        do(services.change, name="db", policy=Policy(every_s=20))
    service, state = in_transaction(engine, lambda s: services.find(s, "web"))
    assert (service.every_s, state.policy_version, state.quiet, state.due_at) == (30, 2, False, NOW)
    assert log(engine) == [("service.create", "web"), ("service.change", "web")]


def test_an_entry_says_who_did_it_and_from_where(engine: Engine, do: Callable[..., Any]) -> None:
    create(do)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM audit_entries")).one()
    assert (row.at, row.actor_kind, row.actor, row.source, row.request_id) == (
        NOW,
        "key",
        "abc",
        "10.0.0.1",
        "r1",
    )
    assert row.detail["every_s"] == 60


def test_a_change_that_fails_leaves_no_entry(engine: Engine, do: Callable[..., Any]) -> None:
    for policy in ({"team": "nobody"}, {"depends_on": ("nobody",)}):
        with pytest.raises(Invalid):
            create(do, **policy)
    assert log(engine) == []
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM services")).scalar() == 0


def test_services_depend_on_each_other_without_a_circle(engine: Engine, do: Callable[..., Any]) -> None:
    create(do, "db")
    create(do, "app", depends_on=("db",))
    create(do, "web", depends_on=("app", "db"))
    with pytest.raises(Invalid, match="circle"):
        do(services.change, name="db", policy=Policy(every_s=60, depends_on=("web",)))
    with pytest.raises(Invalid, match="circle"):
        do(services.change, name="db", policy=Policy(every_s=60, depends_on=("db",)))
    web, _ = in_transaction(engine, lambda s: services.find(s, "web"))
    assert in_transaction(engine, lambda s: names_around(s, web)) == (None, ("app", "db"))


def test_changes_at_once_do_not_close_a_circle_together(engine: Engine, do: Callable[..., Any]) -> None:
    for turn in range(5):
        names = (f"a{turn}", f"b{turn}")
        for name in names:
            create(do, name)

        def depend(pair: tuple[str, str]) -> bool:
            try:
                do(services.change, name=pair[0], policy=Policy(every_s=60, depends_on=(pair[1],)))
            except Invalid:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(depend, (names, names[::-1]))) == 1


def test_the_stop_switch_is_on_once_and_audited(engine: Engine, do: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        stops = list(pool.map(lambda n: do(stop.stop_all, reason=f"drill {n}"), range(4)))
    assert len({one.id for one in stops}) == 1
    assert do(stop.resume_all) is True
    assert do(stop.resume_all) is False
    assert [action for action, _ in log(engine)] == ["stop.engage", "stop.release"]
    assert in_transaction(engine, stop.stopped) is None
