from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from medic.errors import Invalid
from medic.targets.apprise import Apprise
from medic.targets.base import Permanent, Temporary

KIND = Apprise(timeout=5)


@pytest.fixture
def target(stage: Any, view: Any) -> Any:
    """A gotify server: it takes JSON with its token in a header."""
    return view(KIND, {}, url=f"gotify://127.0.0.1:{stage.port}/Ahunter2hunter2")


def test_a_message_reaches_the_service_of_the_url(
    stage: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    assert KIND.send(target, tell(), envelope(), settings=settings) == {}
    (request,) = stage.requests
    assert request.path == "/message"
    assert request.json["title"] == "web-7 is down: missed (p2)"
    assert "Runbook: https://wiki.example.org/web?a=1&b=2" in request.json["message"]
    assert "Medic: https://medic.example.org/" in request.json["message"]


def test_no_service_finds_a_mention(stage: Any, settings: Any, tell: Any, envelope: Any, target: Any) -> None:
    KIND.send(
        target,
        tell("notice", storm=0, text="for @everyone\n<!channel> and <@U1>"),
        envelope(),
        settings=settings,
    )
    sent = stage.requests[0].json
    assert "@everyone" not in sent["title"]
    assert "<!" not in sent["message"]
    assert "@U1" not in sent["message"]


@pytest.mark.parametrize(
    "badly", ["garbage", "cut", "reset", "hang", (429, b""), (500, b""), (401, b""), (302, b"")]
)
def test_every_failure_is_worth_another_try_and_tells_no_secret(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any, badly: Any,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stage.says(
        getattr(http, badly) if isinstance(badly, str) else http.answer(*badly, Location=f"{stage.url}/other")
    )
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Temporary) as failed:
        Apprise(timeout=0.5).send(target, tell(), envelope(), settings=settings)
    assert {request.path for request in stage.requests} == {"/message"}
    printed = capfd.readouterr()
    assert "hunter2" not in failed.value.message + caplog.text + printed.out + printed.err


def test_a_message_ends_at_its_deadline(
    stage: Any, http: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    stage.says(http.hang)
    with pytest.raises(Temporary, match=r"in time|does not say why"):
        Apprise(timeout=0.3).send(target, tell(), envelope(), settings=settings)


@pytest.mark.parametrize(
    "url",
    [
        "nope://hunter2",
        "file:///etc/passwd",
        "hunter2",
        "exec://hunter2",
        "syslog://",
        "dbus://",
        "kde://",
        "glib://",
        "gnome://",
        "macosx://",
        "windows://",
        "blink1://",
        "json://169.254.169.254/latest?hunter2",
        "xmls://hunter2.example",
        "form://hunter2.example",
        "apprise://hunter2.example/token",
        "vapid://hunter2@example.org/alice@example.org",
        "discord://1234567/hunter2hunter2?template=/etc/passwd",
        "discord://1234567/hunter2hunter2?Template=https://hunter2.example/x",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrhunter2/?template=/etc/passwd",
        "fcm://project/device?keyfile=/etc/passwd",
        "mailtos://u:hunter2@example.org?pgppub=/etc/passwd",
        "ntfy://topic?redirect=yes",
        "gotify://host",
        "gotify://host/hunter2 gotify://host/two",
    ],
)
def test_a_url_that_is_unknown_or_acts_on_this_machine_is_refused_and_not_shown(url: str, view: Any, tell: Any,
                                                                               envelope: Any, settings: Any) -> None:  # fmt: skip
    with pytest.raises(Invalid) as wrong:
        KIND.parse({}, {"url": url})
    assert [problem.path for problem in wrong.value.problems] == ["secrets.url"]
    assert "hunter2" not in str(wrong.value)


def test_a_url_that_apprise_no_longer_takes_disables(
    tell: Any, envelope: Any, settings: Any, view: Any
) -> None:
    target = view(KIND, {}, url="gotify://127.0.0.1/Ahunter2hunter2")
    stale = {"url": type(target.secrets["url"])("gone://hunter2")}
    with pytest.raises(Permanent) as failed:
        KIND.send(
            type(target)(id=1, name="t", config={}, secrets=stale), tell(), envelope(), settings=settings
        )
    assert failed.value.disables
    assert "hunter2" not in failed.value.message


def test_its_requests_make_no_span(stage: Any, settings: Any, tell: Any, envelope: Any, target: Any) -> None:
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    RequestsInstrumentor().instrument(tracer_provider=provider)
    try:
        KIND.send(target, tell(), envelope(), settings=settings)
        sys.modules["requests"].get(stage.url, timeout=5)
    finally:
        RequestsInstrumentor().uninstrument()
    assert len(stage.requests) == 2
    assert [span.attributes["http.url"] for span in spans.get_finished_spans() if span.attributes] == [
        stage.url + "/"
    ]
