"""Explain: why an alert opened, why it did not, why nobody was told."""

from __future__ import annotations

from typing import Any, Literal

from apiflask import APIBlueprint
from pydantic import Field
from sqlalchemy.orm import Session

from medic import alerts, services
from medic.db import database_now, in_transaction
from medic.explain import explain_alert, explain_service
from medic_api.alerts import AlertOut, TransitionOut, alert_view
from medic_api.fields import Answer, Duration, JsonValue, Request, Time
from medic_api.guard import caller, guard, need_service
from medic_api.guard import services as shared
from medic_api.service_views import HeartbeatView

bp = APIBlueprint("explain", __name__, url_prefix="/v1", tag="Explain")


class RuleOut(Answer):
    """A rule, whether it holds, and the facts that decide it."""

    rule: str
    holds: bool
    because: str = Field(description="A sentence for people; its text may change.")


class IntervalOut(Answer):
    start: Time
    end: Time


class RefusedOut(Answer):
    """Heartbeats of the service that Medic refused."""

    kind: Literal["limit", "queue"]
    since: Time
    until: Time
    count: int


class ExplainedPolicy(Answer):
    """How the service was watched, and since when."""

    schedule: str
    grace: Duration
    since: Time
    max_runtime: Duration | None
    failure_threshold: int
    recovery_threshold: int
    paused: bool


class ExplainedRun(Answer):
    """An open run."""

    run_id: str | None
    started_at: Time
    overruns_at: Time | None
    lost_at: Time
    overrun: bool


class ServiceExplanation(Answer):
    """A service at a time: the inputs, and each rule's verdict."""

    service: str
    at: Time
    status: Literal["new", "up", "late", "down", "paused"]
    reasons: list[str]
    alert: int | None = Field(description="The alert that was open then.")
    exact: bool = Field(
        description="false: the time before the signals that were looked at is summed up by a success; of an open alert,"
        " successes toward its recovery may be missing."
    )
    policy: ExplainedPolicy
    last_success_at: Time | None
    last_failure_at: Time | None
    failures: int = Field(description="Misses and failures in a row.")
    successes: int = Field(description="Successes in a row toward recovery.")
    deadline: Time | None = Field(description="The next one that is not judged; `at_least` has none.")
    grace_ends_at: Time | None
    next_change_at: Time | None = Field(description="When the verdict can change without a signal.")
    heard: int | None = Field(description="`at_least`: successes in the window that ends then.")
    runs: list[ExplainedRun]
    heartbeats: list[HeartbeatView] = Field(description="The last ones, newest first.")
    unheard: list[IntervalOut] = Field(description="When Medic could not hear it.")
    refused: list[RefusedOut]
    quiet: list[JsonValue] = Field(description="Windows, mutes and failing parents that keep quiet about it.")
    rules: list[RuleOut]


class ExplainedDelivery(Answer):
    """A message about the alert."""

    id: int
    kind: str
    target: str | None
    route: str | None
    level: int
    state: Literal["pending", "delivered", "failed", "suppressed"]
    tries: int
    error: str | None
    created_at: Time
    due_at: Time | None
    finished_at: Time | None


class ExplainedTrigger(Answer):
    """A trigger: whether it is for the alert, and what it did."""

    id: int
    playbook: str
    mode: str
    applies: bool
    started: list[str]
    rules: list[RuleOut]


class ExplainedRefusal(Answer):
    """A trigger was refused, so many times."""

    trigger_id: int
    playbook: str
    code: str
    count: int
    first_at: Time
    last_at: Time


class ExplainedExecution(Answer):
    """An execution for the alert."""

    id: str
    playbook: str
    trigger_id: int | None
    mode: str
    state: str
    started_by: str
    created_at: Time
    finished_at: Time | None


class AlertExplanation(Answer):
    """An alert: why it opened, who was told and why not, and what started."""

    alert: AlertOut
    opening: list[RuleOut] = Field(
        description="Each reason, with the evidence in words; `holds`: it still stands."
    )
    telling: list[RuleOut]
    transitions: list[TransitionOut]
    policy: ExplainedPolicy | None = Field(description="That of its opening, as long as the audit log tells.")
    failures: int = Field(description="The highest count of misses and failures in a row that is known.")
    heartbeats: list[HeartbeatView] = Field(
        description="Around its opening, newest first, as long as they are kept."
    )
    unheard: list[IntervalOut]
    refused: list[RefusedOut]
    quiet: list[JsonValue] = Field(description="What kept quiet when Medic saw it.")
    deliveries: list[ExplainedDelivery] = Field(description="Newest first.")
    triggers: list[ExplainedTrigger]
    refusals: list[ExplainedRefusal]
    executions: list[ExplainedExecution]


class ExplainQuery(Request):
    """The time to explain."""

    at: Time | None = Field(None, description="Now, unless said; as far back as heartbeats are kept.")


@bp.get("/alerts/<id:alert_id>/explain")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="Explain an alert",
    description="Why it opened, why people were told or not, and why a playbook started or not: the inputs, and each "
    "rule's verdict in words.",
)
@bp.output(AlertExplanation)
def explain_alert_view(alert_id: int) -> Any:
    def work(session: Session) -> dict[str, Any]:
        need_service(alerts.find(session, alert_id).service_name)
        is_wide = caller().service_patterns is None
        found = explain_alert(
            session, alert_id=alert_id, now=database_now(session), names_others=is_wide,
            may_name=caller().may_touch,
        )  # fmt: skip
        shown = AlertExplanation.model_validate(
            {name: getattr(found, name) for name in AlertExplanation.model_fields if name not in {"alert", "triggers"}}
            | {
                "alert": alert_view(found.alert),
                "triggers": [
                    {"id": one.id, "playbook": one.playbook, "mode": one.mode, "applies": one.applies,
                     "started": [str(each) for each in one.started], "rules": list(one.rules)}
                    for one in found.triggers
                ],
            }
        )  # fmt: skip
        return shown.model_dump(mode="json")

    return in_transaction(shared().engine, work)


@bp.get("/services/<name:name>/explain")
@guard(scope="services:read", rate="management")
@bp.doc(
    summary="Explain a service, now or at a time",
    description="Judged anew from what is stored up to then, by the same evaluator as the sweep: what was expected, "
    "what was heard, and each rule's verdict in words.",
)
@bp.input(ExplainQuery, location="query")
@bp.output(ServiceExplanation)
def explain_service_view(name: str, query_data: ExplainQuery) -> Any:
    services.need_touch(caller().may_touch(name), name)

    def work(session: Session) -> dict[str, Any]:
        found = explain_service(
            session, name=name, now=database_now(session), at=query_data.at,
            keep_days=shared().settings.heartbeat_retention_days, may_name=caller().may_touch,
        )  # fmt: skip
        return ServiceExplanation.model_validate(found).model_dump(mode="json")

    return in_transaction(shared().engine, work)
