from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medic.errors import Invalid
from medic.notifications import Question
from medic.targets.base import Permanent, Temporary
from medic.targets.slack import Slack

KIND = Slack(timeout=5)
TOKEN = "xoxb-1234-hunter2hunter2"


class Workspace:
    """Slack as far as Medic uses it: messages by time, which only the holder of the token may write."""

    def __init__(self, http: Any) -> None:
        self.http = http
        self.messages: dict[str, dict[str, Any]] = {}

    def __call__(self, request: Any) -> bytes:
        said: bytes = self.http.answer(200, self.method(request))
        return said

    def method(self, request: Any) -> dict[str, Any]:
        arguments = request.json
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return {"ok": False, "error": "invalid_auth"}
        if request.path == "/api/chat.postMessage":
            ts = f"1700000000.{len(self.messages):06}"
            if arguments.get("thread_ts", ts) not in {ts, *self.messages}:
                return {"ok": False, "error": "thread_not_found"}
            self.messages[ts] = arguments
            return {"ok": True, "channel": "C0OPS", "ts": ts}
        if request.path == "/api/chat.update":
            if arguments["ts"] not in self.messages or arguments["channel"] != "C0OPS":
                return {"ok": False, "error": "message_not_found"}
            self.messages[arguments["ts"]] = arguments
            return {"ok": True, "channel": "C0OPS", "ts": arguments["ts"]}
        return {"ok": False, "error": "unknown_method"}

    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages.values()]


@pytest.fixture
def workspace(stage: Any, http: Any) -> Workspace:
    workspace = Workspace(http)
    stage.script = workspace
    return workspace


@pytest.fixture
def target(stage: Any, view: Any) -> Any:
    return view(KIND, {"channel": "#ops", "api_url": f"{stage.url}/api/"}, token=TOKEN)


def buttons(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (button["action_id"], button["value"])
        for block in message["blocks"] if block["type"] == "actions" for button in block["elements"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"approval": {"id": 7, "plan_digest": "0" * 64}}, [("medic_approve", "7"), ("medic_reject", "7")]),
        (
            {"doubt": {"execution": "01890a5d-ac96-774b-bcce-b302099a8057", "position": 2, "epoch": 5}},
            [
                (f"medic_{answer}", "01890a5d-ac96-774b-bcce-b302099a8057.2.5")
                for answer in ("happened", "retry", "fail")
            ],
        ),
        ({}, []),
    ],
)
def test_what_a_notice_asks_is_answered_by_buttons(
    workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any, payload: dict[str, Any],
    expected: list[tuple[str, str]],
) -> None:  # fmt: skip
    notice = replace(tell("notice", storm=0, text="A question"), asks=Question.from_payload(payload))
    KIND.send(target, notice, envelope(), settings=settings)
    (message,) = workspace.messages.values()
    assert buttons(message) == expected


@pytest.mark.parametrize("kind", ["opened", "reason_joined", "renotified", "escalated"])
def test_what_still_fails_is_posted_with_buttons(
    workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any, kind: str
) -> None:
    receipt = KIND.send(target, tell(kind), envelope(), settings=settings)
    (message,) = workspace.messages.values()
    assert receipt == {"channel": "C0OPS", "ts": "1700000000.000000", "alerts": 1}
    assert message["channel"] == "#ops"
    assert buttons(message) == [("medic_ack", "7"), ("medic_mute", "7")]
    section = message["blocks"][0]["text"]
    assert section["type"] == "mrkdwn"
    assert section["verbatim"] is True
    assert "*" + message["text"] + "*" in section["text"]
    assert "<https://wiki.example.org/web?a=1&amp;b=2|Runbook>" in section["text"]
    assert "<https://medic.example.org/|Medic>" in section["text"]


def test_a_message_is_rewritten_when_its_alert_is_acknowledged_and_when_it_is_over(
    workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    receipt = KIND.send(target, tell(), envelope(), settings=settings)
    KIND.send(target, tell("acknowledged", acknowledged_by="alice"), envelope(receipt), settings=settings)
    (message,) = workspace.messages.values()
    assert message["text"] == "web-7: acknowledged by alice (p2)"
    assert buttons(message) == [("medic_mute", "7")]
    KIND.send(target, tell("resolved"), envelope(receipt), settings=settings)
    first, reply = workspace.messages.values()
    assert first["text"] == reply["text"] == "web-7 recovered after 12m"
    assert buttons(first) == []
    assert reply["thread_ts"] == receipt["ts"]


def test_sent_again_after_a_lost_answer_the_message_is_the_same(
    stage: Any, http: Any, workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    receipt = KIND.send(target, tell(), envelope(), settings=settings)
    stage.script = lambda request: workspace(request) if "update" in request.path else http.answer(500)
    with pytest.raises(Temporary):
        KIND.send(target, tell("resolved"), envelope(receipt), settings=settings)
    stage.script = workspace
    KIND.send(target, tell("resolved"), envelope(receipt), settings=settings)
    assert workspace.texts() == ["web-7 recovered after 12m"] * 2


@pytest.mark.parametrize("kind", ["acknowledged", "resolved"])
@pytest.mark.parametrize(
    "earlier", [None, {}, {"channel": "C0OPS"}, {"channel": "C0OPS", "ts": "1.2", "alerts": 1}]
)
def test_it_is_posted_where_the_earlier_message_is_missing(
    workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any, kind: str, earlier: Any
) -> None:
    KIND.send(target, tell(kind), envelope(earlier), settings=settings)
    (message,) = workspace.messages.values()
    assert message["channel"] == "#ops"
    assert "thread_ts" not in message


def test_the_message_of_a_storm_stays_and_its_thread_tells_the_end_of_each(
    workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    receipt = KIND.send(target, tell(storm=37), envelope(), settings=settings)
    assert receipt["alerts"] == 37
    KIND.send(target, tell("resolved"), envelope(receipt), settings=settings)
    storm, reply = workspace.messages.values()
    assert storm["text"] == "37 services are failing: web-7, web-8, web-9 and 34 more"
    assert buttons(storm) == []
    assert (reply["text"], reply["thread_ts"]) == ("web-7 recovered after 12m", receipt["ts"])


def test_ends_that_are_told_together_rewrite_the_messages_of_one_alert_each(
    stage: Any,
    http: Any,
    workspace: Workspace,
    settings: Any,
    tell: Any,
    facts: Any,
    envelope: Any,
    target: Any,
) -> None:
    def single(number: int) -> Any:
        return replace(tell(), alerts=(facts(number),))

    receipts = {number: KIND.send(target, single(number), envelope(), settings=settings) for number in (7, 8)}
    storm = KIND.send(target, tell(storm=5), envelope(), settings=settings)
    told = envelope(earlier_of={**receipts, 9: {"channel": "C0OPS", "ts": "1.2", "alerts": 1}, 10: storm})
    KIND.send(target, tell("resolved", storm=4), told, settings=settings)
    assert workspace.texts() == [
        "web-7 recovered after 12m", "web-8 recovered after 12m",
        "5 services are failing: web-7, web-8, web-9 and 2 more",
        "4 services recovered: web-7, web-8, web-9 and 1 more",
    ]  # fmt: skip
    # A message that cannot be rewritten now keeps nobody from hearing of the end.
    stage.script = lambda request: http.answer(500) if "update" in request.path else workspace(request)
    KIND.send(target, tell("resolved", storm=4), told, settings=settings)
    assert len(workspace.messages) == 5


@pytest.mark.parametrize(
    ("error", "disables"),
    [("invalid_auth", True), ("channel_not_found", True), ("not_in_channel", True), ("token_revoked", True),
     ("account_inactive", True), ("is_archived", True), ("missing_scope", True), ("msg_too_long", False),
     ("invalid_blocks", False)],
)  # fmt: skip
def test_what_slack_will_never_take_is_permanent(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any, error: str, disables: bool
) -> None:
    stage.says(http.answer(200, {"ok": False, "error": error}))
    with pytest.raises(Permanent, match=error) as failed:
        KIND.send(target, tell(), envelope(), settings=settings)
    assert failed.value.disables is disables
    assert len(stage.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(429, {"ok": False, "error": "ratelimited"}), (200, {"ok": False, "error": "ratelimited"})],
)
def test_slack_says_when_to_come_back(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any, status: int, body: Any
) -> None:
    stage.says(http.answer(status, body, Retry_After="30"))
    with pytest.raises(Temporary) as failed:
        KIND.send(target, tell(), envelope(), settings=settings)
    assert failed.value.retry_after == 30


@pytest.mark.parametrize(
    "badly",
    ["garbage", "cut", "reset", "hang", (500, b""), (502, b"<html>"), (200, b"<html>"), (200, b"[]"), (404, b""),
     (200, {"ok": True}), (200, {"ok": True, "channel": 4, "ts": []}), (200, {"ok": True, "channel": "C\0", "ts": "1.2"}), (200, {"ok": False, "error": ["x"]}),
     (200, {"ok": False, "error": "new words <!here>"}), (200, {"ok": False, "error": "internal_error"}),
     (200, {"ok": False, "error": "message_not_found"})],
)  # fmt: skip
def test_whatever_else_slack_says_is_temporary(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any, badly: Any
) -> None:
    stage.says(getattr(http, badly) if isinstance(badly, str) else http.answer(*badly))
    with pytest.raises(Temporary) as failed:
        Slack(timeout=0.3).send(target, tell(), envelope(), settings=settings)
    assert "<!here>" not in failed.value.message


def test_its_address_is_judged_too(
    stage: Any, closed_settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    with pytest.raises(Permanent, match="Invalid webhook URL") as refused:
        KIND.send(target, tell(), envelope(), settings=closed_settings)
    assert refused.value.disables
    assert stage.requests == []


def test_no_proxy_of_the_environment_sees_the_token(
    stage: Any, workspace: Workspace, settings: Any, tell: Any, envelope: Any, target: Any,
    free_port: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    KIND.send(target, tell(), envelope(), settings=settings)
    assert len(workspace.messages) == 1


@pytest.mark.parametrize(
    ("config", "secrets", "where"),
    [
        ({}, {"token": TOKEN}, "config.channel"),
        ({"channel": "C1\n"}, {"token": TOKEN}, "config.channel"),
        ({"channel": "<!here>"}, {"token": TOKEN}, "config.channel"),
        ({"channel": "C1", "api_url": "file:///etc/passwd"}, {"token": TOKEN}, "config.api_url"),
        ({"channel": "C1"}, {}, "secrets.token"),
        ({"channel": "C1"}, {"token": TOKEN + "\r\nX: y"}, "secrets.token"),
    ],
)
def test_a_mistake_is_told_where_it_is(config: Any, secrets: Any, where: str) -> None:
    with pytest.raises(Invalid) as wrong:
        KIND.parse(config, secrets)
    assert [problem.path for problem in wrong.value.problems] == [where]
    assert "hunter2" not in str(wrong.value)
