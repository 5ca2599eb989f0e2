"""``webhook``: JSON to a URL, signed as Standard Webhooks 1.0 asks.

``webhook-id`` is the same over all attempts, so that a receiver can drop what it has already seen.  Redirects are not
followed.  The headers of the configuration are shown to whoever may read targets; a secret goes into ``bearer``, and
a URL that is itself a secret into the secret ``url``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, SecretStr

from medic.crypto.signatures import sign_webhook, webhook_key
from medic.egress.headers import clean_headers
from medic.errors import EgressRefused, Invalid
from medic.notifications import Notification
from medic.settings import Settings
from medic.targets.base import Envelope, Permanent, TargetView
from medic.targets.form import Form, Url, Word, read
from medic.targets.post import as_json, post
from medic.times import format_time

_OURS = frozenset({"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"})
_SECRET = frozenset({"authorization", "cookie"})


def _headers(given: dict[str, str]) -> dict[str, str]:
    try:
        clean = clean_headers(given)
    except EgressRefused as error:
        raise ValueError(error.message) from None
    for name in clean:
        if name in _OURS:
            raise ValueError(f"{name} is set by Medic")
        if name in _SECRET:
            raise ValueError(f"{name} holds a secret: give the secret bearer instead")
    return given


def _signing_secret(text: str) -> str:
    try:
        webhook_key(SecretStr(text))
    except Invalid as error:
        raise ValueError(error.problems[0].message) from None
    return text


class Config(Form):
    url: Url | None = None
    headers: Annotated[dict[str, str], Field(max_length=20), AfterValidator(_headers)] | None = None


class Secrets(Form):
    url: Url | None = None
    signing_secret: Annotated[str, AfterValidator(_signing_secret)] | None = None
    bearer: Word | None = None


@dataclass(frozen=True)
class Webhook:
    kind: ClassVar[str] = "webhook"
    groups: ClassVar[bool] = True

    timeout: float = 20.0

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        _, kept, sealed = read(Config, config, Secrets, secrets)
        if ("url" in kept) == ("url" in sealed):
            raise Invalid.at("config.url", "is required, there or as a secret, not both")
        return kept, sealed

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        url = target.secrets["url"].get_secret_value() if "url" in target.secrets else target.config["url"]
        body = as_json(payload(notification))
        headers = {**target.config.get("headers", {}), **_signed(target, envelope, body)}
        if bearer := target.secrets.get("bearer"):
            headers["authorization"] = f"Bearer {bearer.get_secret_value()}"
        status = post(settings, url, body, headers=headers, timeout=self.timeout).status
        if 200 <= status < 300:
            return {"status": status}
        if status == 410:
            raise Permanent("The receiver answered 410: it wants no more of these.", disables=True)
        if 300 <= status < 400:
            raise Permanent(f"The receiver answered {status}; redirects are not followed.", disables=False)
        raise Permanent(f"The receiver answered {status}.", disables=False)


def payload(notification: Notification) -> dict[str, Any]:
    """What is sent; ``alerts`` holds one alert, or all of a storm, or none."""
    kind = notification.kind if notification.kind in {"notice", "test"} else f"alert.{notification.kind}"
    data: dict[str, Any] = {
        "title": notification.title(),
        "lines": notification.summary_lines(),
        "url": notification.url,
        "alerts": [alert.to_payload() for alert in notification.alerts],
    }
    if notification.reason is not None:
        data["reason"] = notification.reason
    if notification.text is not None:
        data["text"] = notification.text
    return {"type": kind, "timestamp": format_time(notification.at), "data": data}


def _signed(target: TargetView, envelope: Envelope, body: bytes) -> dict[str, str]:
    """The headers of this attempt.  The receiver compares the time with its clock, so it is this moment's."""
    at = int(time.time())
    message_id = str(envelope.key)
    secret = target.secrets.get("signing_secret")
    if secret is None:
        return {"webhook-id": message_id, "webhook-timestamp": str(at)}
    return sign_webhook([webhook_key(secret)], message_id=message_id, timestamp=at, body=body)
