from __future__ import annotations

import email
import json
import unicodedata
from datetime import UTC, datetime, timedelta
from email.policy import default
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.notifications import AlertFacts, Notification
from medic.targets.apprise import quiet
from medic.targets.base import Envelope
from medic.targets.email import compose
from medic.targets.pagerduty import _event
from medic.targets.post import as_json
from medic.targets.slack import message
from medic.targets.webhook import payload

AT = datetime(2026, 11, 23, 9, 42, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "changes", "title"),
    [
        ("opened", {}, "web-7 is down: missed (p2)"),
        ("opened", {"reasons": ("failed", "overrun")}, "web-7 is down: failed, overrun (p2)"),
        ("opened", {"reasons": ("too_few",)}, "web-7 is failing: too few (p2)"),
        ("renotified", {}, "web-7 is still down: missed (p2), for 12m"),
        ("renotified", {"opened_at": AT - timedelta(days=3, hours=2, seconds=9)},
         "web-7 is still down: missed (p2), for 3d2h"),
        ("escalated", {"priority": "p1"}, "Escalated: web-7 is down: missed (p1)"),
        ("acknowledged", {"acknowledged_by": "alice"}, "web-7: acknowledged by alice (p2)"),
        ("resolved", {}, "web-7 recovered after 12m"),
        ("resolved", {"opened_at": AT - timedelta(seconds=45)}, "web-7 recovered after 45s"),
        ("resolved", {"opened_at": AT + timedelta(seconds=5)}, "web-7 recovered after 0s"),
        ("resolved", {"opened_at": AT - timedelta(hours=3, minutes=20, seconds=5)}, "web-7 recovered after 3h20m"),
        ("resolved", {"resolution": "paused"}, "web-7 was paused: its alert is closed"),
        ("resolved", {"resolution": "manual"}, "web-7 was resolved by hand after 12m"),
        ("resolved", {"resolution": "run_ended"}, "web-7 is fine again, its run ended after 12m"),
    ],
)  # fmt: skip
def test_a_title_says_what_happened_to_what(tell: Any, kind: str, changes: Any, title: str) -> None:
    assert tell(kind, **changes).title() == title


def test_a_reason_that_joined_is_told_beside_the_others(facts: Any) -> None:
    alert = facts(reasons=("missed", "failed"))
    said = Notification("reason_joined", (alert,), AT, "https://m.example", reason="failed")
    assert said.title() == "web-7 is down: missed, now also failed (p2)"


@pytest.mark.parametrize(
    ("kind", "storm", "title"),
    [
        ("opened", 37, "37 services are failing: web-7, web-8, web-9 and 34 more"),
        ("opened", 2, "2 services are failing: web-7, web-8"),
        ("renotified", 3, "3 services are still failing: web-7, web-8, web-9"),
        ("escalated", 2, "Escalated: 2 services are failing: web-7, web-8"),
        ("acknowledged", 2, "2 services are acknowledged: web-7, web-8"),
        ("resolved", 4, "4 services recovered: web-7, web-8, web-9 and 1 more"),
    ],
)
def test_a_storm_is_counted_and_its_first_are_named(tell: Any, kind: str, storm: int, title: str) -> None:
    said = tell(kind, storm=storm)
    assert said.title() == title
    assert f"p2: {storm}." in said.summary_lines()
    assert len(said.summary_lines()) < 30


def test_several_alerts_of_one_service_are_one_service(facts: Any) -> None:
    same = tuple(facts(number, service="web") for number in (1, 2))
    assert Notification("opened", same, AT, "https://m.example").title() == "1 service is failing: web"


def test_an_escalation_says_what_a_playbook_came_to(tell: Any) -> None:
    assert "Nobody acknowledged it in time." in tell("escalated").summary_lines()
    said = tell("escalated", text="Playbook heal failed at step act: timeout").summary_lines()
    assert "Playbook heal failed at step act: timeout" in said
    assert "Nobody acknowledged it in time." not in said


def test_a_notice_is_its_text(tell: Any) -> None:
    said = tell("notice", storm=0, text="Maintenance 'db' has started\n\nuntil 12:00")
    assert (said.title(), said.summary_lines()) == ("Maintenance 'db' has started", ["until 12:00"])
    assert tell("notice", storm=0).title() == "A notice from Medic"
    assert tell("test", storm=0).title() == "A test from Medic"


def test_only_a_web_address_is_a_link(tell: Any) -> None:
    for bad in (
        "javascript:alert(1)",
        "https://a.example/|x>y",
        "https://a.example/\r\nX: y",
        "//a.example",
        "https://",
    ):
        assert tell(runbook_url=bad).links() == [("Medic", "https://medic.example.org/")]


def test_facts_come_back_from_their_payload(facts: Any) -> None:
    alert = facts(resolved_at=AT, resolution="recovered", acknowledged_by="bob", last_success_at=AT)
    assert AlertFacts.from_payload(json.loads(json.dumps(alert.to_payload() | {"failures": 3}))) == alert
    bare = AlertFacts(1, "a", "p5", (), AT)
    assert AlertFacts.from_payload(bare.to_payload() | {"team": None, "runbook_url": None}) == bare


TEXT = st.text(st.characters(), max_size=60) | st.sampled_from(
    [
        "<!channel>",
        "<@U1>",
        "a\r\nBcc: x@y.z",
        "*_~`",
        "&lt;!here&gt;",
        "@everyone",
        "\ud800",
        "\u202e",
        "x" * 4_000,
    ]
)
ALERT = st.builds(
    AlertFacts,
    id=st.integers(1, 2**62),
    service=TEXT,
    priority=st.sampled_from(["p1", "p3", "p5"]) | TEXT,
    reasons=st.lists(TEXT, max_size=4).map(tuple),
    opened_at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    resolution=st.none() | st.sampled_from(["recovered", "deleted", "manual"]) | TEXT,
    acknowledged_by=st.none() | TEXT,
    team=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    runbook_url=st.none() | TEXT | TEXT.map("https://a.example/{}".format),
)
KINDS = ["opened", "reason_joined", "renotified", "acknowledged", "escalated", "resolved", "notice", "test"]
NOTIFICATION = st.builds(
    Notification,
    kind=st.sampled_from(KINDS),
    alerts=st.lists(ALERT, max_size=25).map(tuple),
    at=st.just(AT),
    base_url=st.just("https://medic.example.org"),
    reason=st.none() | TEXT,
    text=st.none() | TEXT,
)
ENVELOPE = Envelope(UUID(int=7), 1, "medic-alert-7", None)


@given(NOTIFICATION)
def test_no_text_breaks_its_line(said: Notification) -> None:
    for line in [said.title(), *said.text_lines()]:
        assert line == line.strip()
        assert len(line.splitlines()) == 1
        assert {unicodedata.category(char) for char in line}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert len(said.title()) <= 500


@given(NOTIFICATION)
def test_slack_finds_no_mention_and_no_link_but_ours(said: Notification) -> None:
    sent = message(said)
    assert "<" not in sent["text"]
    assert ">" not in sent["text"]
    section = sent["blocks"][0]["text"]["text"]
    assert len(section) <= 3_000
    assert len(sent["text"]) <= 4_000
    for opened in section.split("<")[1:]:
        assert opened.startswith(("https://a.example/", "https://medic.example.org/"))
    assert section.count("<") == section.count(">")


@given(NOTIFICATION)
def test_a_mail_has_no_header_that_a_text_wrote(said: Notification) -> None:
    written = compose(said, ENVELOPE, sender="medic@example.org", to=["ops@example.org"]).as_bytes()
    read = email.message_from_bytes(written, policy=default)
    ours = {"from", "to", "subject", "date", "message-id", "in-reply-to", "references", "auto-submitted", "importance",
            "content-type", "content-transfer-encoding", "mime-version"}  # fmt: skip
    assert {name.lower() for name in read.keys()} <= ours  # noqa: SIM118
    assert read["To"] == "ops@example.org"
    assert all(len(line) <= 998 for line in written.split(b"\r\n"))
    assert written.replace(b"\r\n", b"").isascii()
    assert b"\n" not in written.replace(b"\r\n", b"")
    assert read["Subject"].replace(" ", "") == said.title().replace(" ", "")


@given(NOTIFICATION)
def test_what_is_sent_as_json_can_be_read_again(said: Notification) -> None:
    for body in (as_json(payload(said)), as_json(_event(said, "d"))):
        assert isinstance(json.loads(body), dict)


@given(TEXT)
def test_apprise_gets_no_mention(text: str) -> None:
    said = quiet(text)
    assert said.replace("\u200b", "") == text.replace("\u200b", "")
    assert "@everyone" not in said
    assert "<!" not in said
