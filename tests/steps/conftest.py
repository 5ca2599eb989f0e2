from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medic.egress import AllowList, SafeClient
from medic.errors import NotFound
from medic.playbook.document import Parsed
from medic.playbook.grammar import parse
from medic.playbook.scope import Json, Scope
from medic.sandbox.model import Limits
from medic.sandbox.runner import run_script
from medic.steps.approval import ApprovalStep
from medic.steps.base import ActContext, Outcome, Recipient, Rendered, Script, StepType
from medic.steps.condition import ConditionStep
from medic.steps.notify import NotifyStep
from medic.steps.script import ScriptStep
from medic.steps.wait import WaitStep
from medic.steps.webhook import WebhookStep

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
SECRET = "hunter22-hunter22"
TYPES: dict[str, StepType] = {
    kind.type: kind
    for kind in (ApprovalStep(), ConditionStep(), NotifyStep(), ScriptStep(), WaitStep(), WebhookStep())
}
SCOPE = Scope(
    variables={"SERVICE_NAME": "web", "SERVICE_ID": 5, "PLAYBOOK_ID": 3, "ALERT_ID": 11, "LIST": [1, "x"]},
    steps={"first": {"status": 200, "body": {"id": 7}}},
    secret={"OPS": SECRET}.__getitem__,
)


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A real web server on loopback that answers as it is told and keeps what it got."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: bytes = b'{"accepted": true, "data": {"items": [{"id": 4}]}}'
    hold: threading.Event | None = None
    received: list[Received] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.command, self.path, headers, body))
            if receiver.hold is not None:
                receiver.hold.wait(10)
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(receiver.body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield receiver
        if receiver.hold is not None:
            receiver.hold.set()
        server.shutdown()
        thread.join()


@dataclass
class Ledger:
    """The facts of a test: plain data, asked as the database would be."""

    beats: list[tuple[int, datetime, str]] = field(default_factory=list)
    open_alerts: set[int] = field(default_factory=set)
    ends: dict[str, datetime] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)

    def heartbeats_since(self, service_id: int, since: datetime, status: str | None) -> int:
        return sum(s == service_id and at > since and word == (status or "ok") for s, at, word in self.beats)

    def alert_open(self, alert_id: int) -> bool:
        return alert_id in self.open_alerts

    def last_acting_step_ended(self) -> datetime:
        return max(self.ends.values())

    def step_ended(self, name: str) -> datetime:
        return self.ends[name]

    def recipients(self, *, target: str | None = None, route: str | None = None) -> tuple[Recipient, ...]:
        name = target or route or "default"
        if name not in self.targets:
            raise NotFound(f"There is no target '{name}'.")
        return (Recipient(self.targets[name], name),)


@pytest.fixture
def scripts() -> dict[str, Script]:
    return {}


@pytest.fixture
def context(scripts: dict[str, Script], tmp_path: Path) -> ActContext:
    def load(name: str) -> Script:
        if name not in scripts:
            raise NotFound("no such script")
        return scripts[name]

    return ActContext(
        execution_id="01890000-0000-7000-8000-000000000001",
        step_name="s",
        position=1,
        epoch=4,
        idempotency_key="01890000-0000-7000-8000-000000000001.s",
        now=NOW,
        parked_at=None,
        timeout=timedelta(seconds=10),
        default_condition_timeout=timedelta(minutes=6),
        should_stop=lambda: False,
        before_effect=lambda: None,
        client=SafeClient(AllowList.parse(["127.0.0.1"])),
        facts=Ledger(ends={"first": NOW - timedelta(minutes=2), "second": NOW - timedelta(minutes=1)}),
        load_script=load,
        run_script=partial(run_script, mode="best-effort", limits=Limits(grace=0.2), base=tmp_path),
        base_environment={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        redact=lambda text: text.replace(SECRET, "[secret:OPS]"),
    )


@pytest.fixture
def render() -> Callable[..., tuple[StepType, Rendered]]:
    """Render one step after a step `first`, from its keys as a mapping."""

    def rendered(scope: Scope = SCOPE, **keys: Json) -> tuple[StepType, Rendered]:
        first: Json = {"name": "first", "type": "webhook", "url": "https://a.example/"}
        text = json.dumps({"name": "a", "steps": [first, {"name": "s", **keys}]})
        step = parse(text, TYPES).playbook.steps[1]
        kind = TYPES[step.type]
        return kind, kind.render(step.spec, scope)

    return rendered


@pytest.fixture
def act(render: Callable[..., tuple[StepType, Rendered]], context: ActContext) -> Callable[..., Outcome]:
    """Render one step and let it act; `change` replaces parts of the context."""

    def acted(change: dict[str, object] | None = None, scope: Scope = SCOPE, **keys: Json) -> Outcome:
        kind, rendered = render(scope, **keys)
        return kind.act(rendered, replace(context, **(change or {})))  # type: ignore[arg-type]

    return acted


@pytest.fixture
def types() -> dict[str, StepType]:
    return TYPES


@pytest.fixture
def read_with_secret() -> Callable[[str], Parsed]:
    """Read a webhook that sends a secret to an address, in a playbook that declares URL."""
    return lambda url: parse(
        json.dumps(
            {
                "name": "a",
                "variables": {"URL": {"required": True}},
                "steps": [
                    {
                        "name": "s",
                        "type": "webhook",
                        "url": url,
                        "headers": {"Authorization": "${secrets.OPS}"},
                    }
                ],
            }
        ),
        TYPES,
    )
