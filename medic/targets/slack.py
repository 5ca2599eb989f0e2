"""``slack``: messages of a bot in a channel.

An alert is one message: it is rewritten when somebody acknowledges it and when it is over, and its end is told in the
message's thread besides, since Slack tells nobody of a rewritten message.  The message of a storm stays as it is, and
its thread tells the end of each; ends that are told together rewrite the messages of one alert each.  Requests go through the safe client and
not through slack_sdk's: `WebClient` has no deadline for the whole answer, takes the proxy of the environment, and
``api_url`` is an address that a user gave.  slack_sdk builds the blocks.

Slack knows no key that would make a message unique, so one whose answer was lost is posted twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Final

import structlog
from pydantic import StringConstraints
from slack_sdk.models.blocks import ActionsBlock, Block, ButtonElement, MarkdownTextObject, SectionBlock

from medic.notifications import Notification
from medic.settings import Settings
from medic.targets.base import Envelope, Permanent, TargetView, Temporary
from medic.targets.form import Form, Url, Word, read
from medic.targets.post import as_json, json_object, post, retry_after

API_URL: Final = "https://slack.com/api/"
ACKNOWLEDGE: Final = "medic_ack"
MUTE: Final = "medic_mute"
"""``action_id`` of an alert's buttons; their ``value`` is its number."""
ANSWERS: Final = {
    "approval": (("Approve", "medic_approve", "primary"), ("Reject", "medic_reject", "danger")),
    "doubt": (
        ("It happened", "medic_happened", None), ("Do it again", "medic_retry", None),
        ("It failed", "medic_fail", "danger"),
    ),
}  # fmt: skip
"""The buttons of a question: text, ``action_id``, style; their ``value`` is what the question is about."""

_CHANNEL = r"^#?[A-Za-z0-9._-]{1,80}$"
_CODE = re.compile(r"[a-z0-9_]{1,80}", re.ASCII)
_LONGEST_SECTION = 3_000
_LONGEST_LINKS = 2_200
_REWRITTEN = 40
_REWRITING_S = 15.0
"""Bounds of what a message that resolves many rewrites besides: Slack takes about 50 changes a minute."""

_WRONG_TARGET = frozenset(
    {
        "access_denied", "account_inactive", "channel_not_found", "ekm_access_denied", "enterprise_is_restricted",
        "invalid_auth", "invalid_channel", "is_archived", "missing_scope", "no_permission", "not_allowed_token_type",
        "not_authed", "not_in_channel", "org_login_required", "restricted_action",
        "restricted_action_non_threadable_channel", "restricted_action_read_only_channel",
        "restricted_action_thread_only_channel", "team_access_not_granted", "token_expired", "token_revoked",
        "two_factor_setup_required",
    }
)  # fmt: skip
"""Errors that every other message to this target would meet too."""

_WRONG_MESSAGE = frozenset(
    {
        "invalid_arg_name", "invalid_arguments", "invalid_array_arg", "invalid_attachments", "invalid_blocks",
        "invalid_blocks_format", "invalid_charset", "invalid_form_data", "invalid_json", "invalid_metadata_format",
        "json_not_object", "markdown_text_conflict", "metadata_too_large", "msg_blocks_too_long", "msg_too_long",
        "no_text", "too_many_attachments",
    }
)  # fmt: skip
"""Errors of this one message.  Whatever is on neither list may pass, and is tried again."""

_NOT_THERE = frozenset(
    {
        "cant_update_message",
        "edit_window_closed",
        "message_not_found",
        "thread_not_found",
        "cannot_reply_to_message",
    }
)
"""The earlier message cannot be changed or answered; a new one still can be posted."""


log = structlog.get_logger("medic.targets")

_AS_WRITTEN = {"parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}


class Config(Form):
    channel: Annotated[str, StringConstraints(pattern=_CHANNEL)]
    api_url: Url | None = None


class Secrets(Form):
    token: Word


@dataclass(frozen=True)
class Slack:
    kind: ClassVar[str] = "slack"
    groups: ClassVar[bool] = True

    timeout: float = 15.0
    """Of one request; a message takes three at most, and one that resolves many its rewriting besides."""

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        _, kept, sealed = read(Config, config, Secrets, secrets)
        return kept, sealed

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        call = _Calls(target, settings, self.timeout)
        if envelope.earlier_of:
            self._rewrite_each(call, notification, envelope)
        earlier = _earlier(envelope.earlier) if notification.kind in {"acknowledged", "resolved"} else None
        if earlier is None:
            return call.post({"channel": target.config["channel"], **message(notification)}, notification)
        where = {"channel": earlier["channel"]}
        try:
            # A storm's message tells of other alerts too, and stays as it is.
            if earlier.get("alerts", 1) == 1 and notification.alert is not None:
                call.send("chat.update", {**where, "ts": earlier["ts"], **message(notification)})
                if notification.kind == "acknowledged":
                    return dict(earlier)
            reply = {"text": escape(notification.title()), "thread_ts": earlier["ts"]}
            return call.post({**where, **reply}, notification)
        except _NotThere:
            return call.post({"channel": target.config["channel"], **message(notification)}, notification)

    def _rewrite_each(self, call: _Calls, notification: Notification, envelope: Envelope) -> None:
        """Rewrite the messages of alerts that end together and were told of one by one.

        First, as what follows cannot be repeated unseen.  The newest, as far as time goes; one that cannot be rewritten
        keeps nobody from hearing of the end.
        """
        until = time.monotonic() + _REWRITING_S
        ended = [alert for alert in notification.alerts if alert.id in envelope.earlier_of]
        for alert in sorted(ended, key=attrgetter("opened_at"), reverse=True)[:_REWRITTEN]:
            earlier = _earlier(envelope.earlier_of[alert.id])
            if earlier is None or earlier.get("alerts", 1) != 1:
                continue
            where = {"channel": earlier["channel"], "ts": earlier["ts"]}
            try:
                call.send("chat.update", {**where, **message(replace(notification, alerts=(alert,)))})
            except _NotThere:
                continue
            except (Temporary, Permanent) as error:
                log.warning("slack.not_rewritten", alert=alert.id, error=error.message)
                return
            if time.monotonic() > until:
                return


class _NotThere(Exception):
    """The message that was to be changed or answered is gone."""


class _Calls:
    """Slack's methods with this target's token."""

    def __init__(self, target: TargetView, settings: Settings, timeout: float) -> None:
        self._base = target.config.get("api_url", API_URL).rstrip("/")
        self._token = target.secrets["token"]
        self._settings, self._timeout = settings, timeout

    def post(self, arguments: Mapping[str, Any], notification: Notification) -> dict[str, Any]:
        """Post a message; the receipt says where it stands and of how many alerts it tells."""
        said = self.send("chat.postMessage", {**_AS_WRITTEN, **arguments})
        channel, ts = said.get("channel"), said.get("ts")
        if not _is_place(channel, ts):
            raise Temporary("Slack gave an answer that is none of its own.")
        return {"channel": channel, "ts": ts, "alerts": len(notification.alerts)}

    def send(self, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a method.

        :raises _NotThere: the earlier message that it names is gone.
        """
        headers = {
            "authorization": f"Bearer {self._token.get_secret_value()}",
            "content-type": "application/json; charset=utf-8",
        }
        url = f"{self._base}/{method}"
        answer = post(self._settings, url, as_json(arguments), headers=headers, timeout=self._timeout)
        said = json_object(answer)
        if said.get("ok") is True:
            return said
        error = said.get("error")
        if not isinstance(error, str) or not _CODE.fullmatch(error):
            raise Temporary(f"Slack gave an answer that is none of its own ({answer.status}).")
        if error in _NOT_THERE and not arguments.keys().isdisjoint({"ts", "thread_ts"}):
            raise _NotThere
        if error in _WRONG_TARGET or error in _WRONG_MESSAGE:
            raise Permanent(f"Slack refused it: {error}.", disables=error in _WRONG_TARGET)
        raise Temporary(f"Slack could not take it: {error}.", retry_after=retry_after(answer.headers))


def message(notification: Notification) -> dict[str, Any]:
    """The arguments of a message: ``text`` is what a phone shows, ``blocks`` is what the channel shows."""
    title = escape(notification.title())
    links = " · ".join(f"<{escape(url)}|{escape(label)}>" for label, url in notification.links())
    room = _LONGEST_SECTION - len(f"*{title}*") - len(links) - 2
    lines = []
    for line in map(escape, notification.summary_lines()):
        room -= len(line) + 1
        if room < 0:
            lines.append("…")
            break
        lines.append(line)
    # Too many long links are left out; the page lists the same alerts.
    body = "\n".join([f"*{title}*", *lines, *([links] if len(links) < _LONGEST_LINKS else [])])
    # Verbatim: else Slack makes a mention of a plain @here.
    blocks: list[Block] = [SectionBlock(text=MarkdownTextObject(text=body, verbatim=True))]
    if buttons := _buttons(notification):
        blocks.append(ActionsBlock(elements=buttons))
    return {"text": title, "blocks": [block.to_dict() for block in blocks]}


def escape(text: str) -> str:
    """Text that Slack shows as it is: no link, no mention of a channel or person can be written with it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _buttons(notification: Notification) -> list[ButtonElement]:
    asks, alert = notification.asks, notification.alert
    if asks is not None:
        return [
            ButtonElement(text=text, action_id=action, value=asks.about, style=style)
            for text, action, style in ANSWERS[asks.kind]
        ]
    if alert is None or notification.kind in {"resolved", "notice", "test"}:
        return []
    value = str(alert.id)
    mute = ButtonElement(text="Mute", action_id=MUTE, value=value)
    if alert.acknowledged_by or notification.kind == "acknowledged":
        return [mute]
    return [ButtonElement(text="Acknowledge", action_id=ACKNOWLEDGE, value=value, style="primary"), mute]


def _is_place(channel: object, ts: object) -> bool:
    """Whether this is where a message stands; what is kept of an answer is checked like any stranger's text."""
    return (
        isinstance(channel, str)
        and isinstance(ts, str)
        and re.fullmatch(r"[A-Za-z0-9._-]{1,80}", channel, re.ASCII) is not None
        and re.fullmatch(r"[0-9.]{1,40}", ts, re.ASCII) is not None
    )


def _earlier(receipt: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The receipt of the earlier message, when it is one of ours."""
    found = receipt or {}
    return found if _is_place(found.get("channel"), found.get("ts")) else None
