"""``condition``: wait until something is true, or fail with ``timeout``.

    heartbeat_received   enough heartbeats arrived after the last acting step ended (``since: STEP``: after that one)
    alert_resolved       the execution's alert is closed
    http                 a request answers as ``success`` says; asked again each ``interval``

The first two read only the database, so they park with a `check` that the due sweep judges for all at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Literal

from medic.errors import EgressFailed, EgressRefused
from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.playbook.step import read_step_name
from medic.steps.answer import describe, read_success, render_success, shortfall
from medic.steps.base import STEPS_QUEUE, ActContext, Checks, Done, Failed, Outcome, Park
from medic.steps.checks import (
    AlertResolved,
    HeartbeatReceived,
    HttpAnswers,
    RenderedAlert,
    RenderedCheck,
    RenderedHeartbeat,
    RenderedHttp,
    Spec,
    render_alert,
    render_heartbeat,
)
from medic.steps.output import MOST_BYTES, fit_output
from medic.steps.request import read_request, render_request
from medic.times import format_duration, format_time

POLL = timedelta(seconds=5)
_CHECKS = ("heartbeat_received", "alert_resolved", "http")
_LONGEST_REQUEST = timedelta(seconds=10)
_SECOND = timedelta(seconds=1)


class ConditionStep:
    type: ClassVar[str] = "condition"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = False
    parks: ClassVar[bool] = True
    times_out: ClassVar[bool] = True
    default_timeout: ClassVar[timedelta | None] = None

    def parse(self, reader: Reader) -> Spec:
        check = reader.choice("check", _CHECKS, "", required=True)
        if check == "heartbeat_received":
            return _read_heartbeat(reader)
        if check == "alert_resolved":
            return AlertResolved()
        if check == "http":
            return _read_http(reader)
        list(reader.keys())
        return AlertResolved()

    def parse_probe(self, reader: Reader) -> Spec:
        """As a probe it counts from the moment of the doubt on."""
        return self.parse(reader)

    def on_crash(self, _spec: Spec, /) -> Literal["retry", "ask"]:
        return "retry"

    def render(self, spec: Spec, scope: Scope, /) -> RenderedCheck:
        match spec:
            case HeartbeatReceived():
                return render_heartbeat(spec, scope)
            case AlertResolved():
                return render_alert(scope)
        return RenderedHttp(
            render_request(spec.request, scope), render_success(spec.success, scope), spec.interval
        )

    def rehearse(self, rendered: RenderedCheck, checks: Checks, /) -> list[str]:
        if isinstance(rendered, RenderedHttp):
            checks.url(rendered.request.url)
        return []

    def act(self, rendered: RenderedCheck, context: ActContext) -> Outcome:
        deadline = (context.parked_at or context.now) + (context.timeout or context.default_condition_timeout)
        match rendered:
            case RenderedHeartbeat():
                return _judge_heartbeat(rendered, context, deadline)
            case RenderedAlert():
                return _judge_alert(rendered, context, deadline)
        return _ask(rendered, context, deadline)


def _read_heartbeat(reader: Reader) -> HeartbeatReceived:
    since = read_step_name(reader, "since")
    inner = reader.mapping("parameters")
    if inner is None:
        return HeartbeatReceived(1, None, None, since)
    found = HeartbeatReceived(
        min_count=inner.whole("min_count", 1, least=1, most=100_000),
        status=inner.text("status", longest=64) or None,
        service_id=inner.whole("service_id", 0, least=1, most=2**63 - 1) if "service_id" in inner else None,
        since=since,
    )
    inner.finish()
    return found


def _read_http(reader: Reader) -> HttpAnswers:
    request = read_request(reader, methods=("GET", "HEAD"), method="GET")
    interval = reader.duration("interval", POLL, least=_SECOND) or POLL
    return HttpAnswers(request, read_success(reader, default=frozenset(range(200, 300))), interval)


def _judge_heartbeat(check: RenderedHeartbeat, context: ActContext, deadline: datetime) -> Outcome:
    facts = context.facts
    since = facts.step_ended(check.since) if check.since else facts.last_acting_step_ended()
    count = facts.heartbeats_since(check.service_id, since, check.status)
    if count >= check.min_count:
        return Done({"check": "heartbeat_received", "service_id": check.service_id, "count": count})
    if context.now >= deadline:
        kind = f"with status {check.status} " if check.status else ""
        return _late(
            f"{count} of {check.min_count} heartbeats {kind}of service {check.service_id} arrived",
            context,
            {"check": "heartbeat_received", "service_id": check.service_id, "count": count},
        )
    wait: dict[str, Json] = {
        "kind": "heartbeat_received",
        "service_id": check.service_id,
        "since": format_time(since),
        "min_count": check.min_count,
        "status": check.status,
        "deadline": format_time(deadline),
    }
    return Park(min(context.now + POLL, deadline), wait)


def _judge_alert(check: RenderedAlert, context: ActContext, deadline: datetime) -> Outcome:
    output: dict[str, Json] = {"check": "alert_resolved", "alert_id": check.alert_id}
    if not context.facts.alert_open(check.alert_id):
        return Done(output)
    if context.now >= deadline:
        return _late(f"Alert {check.alert_id} was not resolved", context, output)
    wait: dict[str, Json] = {
        "kind": "alert_resolved",
        "alert_id": check.alert_id,
        "deadline": format_time(deadline),
    }
    return Park(min(context.now + POLL, deadline), wait)


def _ask(check: RenderedHttp, context: ActContext, deadline: datetime) -> Outcome:
    request = check.request
    output: dict[str, Json] = {}
    remaining = max(deadline - context.now, _SECOND)
    try:
        response = context.client.request(
            request.method,
            request.url,
            headers=request.headers,
            body=request.body,
            timeout=min(remaining, _LONGEST_REQUEST).total_seconds(),
            max_body=MOST_BYTES,
            cancelled=context.should_stop,
            before_send=context.before_effect,
        )
    except EgressRefused as error:
        return Failed("egress_refused", error.message, {"url": request.shown["url"]})
    except EgressFailed as error:
        missing: str | None = f"gave no answer ({error.kind})"
    else:
        output, text = describe(response)
        missing = shortfall(check.expected, response.status, output["body"], text)
    output = fit_output({"check": "http", "url": request.shown["url"], **output}, context.redact)
    if missing is None:
        return Done(output)
    if context.now >= deadline:
        return _late(f"The address last {missing}", context, output)
    return Park(min(context.now + check.interval, deadline))


def _late(what: str, context: ActContext, output: dict[str, Json]) -> Failed:
    limit = format_duration(context.timeout or context.default_condition_timeout)
    return Failed("timeout", f"{what} within {limit}.", output)
