"""``pagerduty``: Events API v2.

All messages of one alert carry the same ``dedup_key``, so PagerDuty keeps one incident for it however often
something is told or sent again.  A storm is not grouped: each alert needs its own incident to be resolved by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import SecretStr

from medic.notifications import Notification
from medic.settings import Settings
from medic.targets.base import Envelope, Permanent, TargetView, Temporary
from medic.targets.form import Form, Url, Word, read
from medic.targets.post import as_json, json_object, post
from medic.times import format_time

API_URL: Final = "https://events.pagerduty.com/v2/enqueue"
_ACTIONS: Final = {"acknowledged": "acknowledge", "resolved": "resolve"}
_LONGEST_SUMMARY = 1_024


class Config(Form):
    api_url: Url | None = None


class Secrets(Form):
    routing_key: Word


@dataclass(frozen=True)
class PagerDuty:
    kind: ClassVar[str] = "pagerduty"
    groups: ClassVar[bool] = False

    timeout: float = 20.0

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        _, kept, sealed = read(Config, config, Secrets, secrets)
        return kept, sealed

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        # A notice or a test is about no alert that would resolve it.
        dedup = envelope.dedup if notification.alerts else f"medic-{notification.kind}-{envelope.key}"
        self._enqueue(target, _event(notification, dedup), settings)
        if notification.kind == "test":
            self._enqueue(target, {"event_action": "resolve", "dedup_key": dedup}, settings)
        return {"dedup_key": dedup}

    def _enqueue(self, target: TargetView, event: dict[str, Any], settings: Settings) -> None:
        key = target.secrets["routing_key"]
        body = as_json({"routing_key": key.get_secret_value(), **event})
        url = target.config.get("api_url", API_URL)
        answer = post(settings, url, body, headers={}, timeout=self.timeout)
        said = json_object(answer)
        if answer.status == 202 and said.get("status") == "success":
            return
        if answer.status < 300:
            # Sent again it is the same incident, so to believe a strange answer would be the greater risk.
            raise Temporary(f"PagerDuty gave an answer that is none of its own ({answer.status}).")
        why = _why(said, key)
        about_key = "routing" in why.lower() and "key" in why.lower()
        raise Permanent(
            f"PagerDuty answered {answer.status}{': ' if why else ''}{why}.",
            disables=about_key or answer.status in {401, 404, 410},
        )


def _event(notification: Notification, dedup: str) -> dict[str, Any]:
    action = _ACTIONS.get(notification.kind, "trigger")
    event: dict[str, Any] = {"event_action": action, "dedup_key": dedup}
    if action != "trigger":
        return event
    event["client"] = "Medic"
    event["client_url"] = notification.url
    event["links"] = [{"href": url, "text": label} for label, url in notification.links()]
    event["payload"] = {
        "summary": notification.title()[:_LONGEST_SUMMARY],
        "severity": notification.severity,
        "source": "medic",
        "timestamp": format_time(notification.at),
        "custom_details": {"summary": notification.summary_lines()},
    }
    if (alert := notification.alert) is not None:
        event["payload"] |= {
            "component": alert.service,
            "class": ", ".join(alert.reasons),
            "timestamp": format_time(alert.opened_at),
            "custom_details": alert.to_payload(),
        }
        if alert.team:
            event["payload"]["group"] = alert.team
    return event


def _why(said: Mapping[str, Any], key: SecretStr) -> str:
    """What PagerDuty says is wrong, on one line and without the key."""
    errors = said.get("errors")
    parts = [said.get("message"), *(errors if isinstance(errors, list) else [])]
    text = "; ".join(" ".join(part.split()) for part in parts if isinstance(part, str))
    text = text.replace(key.get_secret_value(), "[routing key]")
    return "".join(char for char in text if char.isprintable())[:300].rstrip(".")
