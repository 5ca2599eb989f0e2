"""What people are told, in plain words.  Pure.

A notification is about one alert, about many of one kind (a storm), or about none (a notice, a test).  The texts
hold no markup and no line breaks; whoever sends them escapes them for the medium.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from medic.times import format_duration, format_time, parse_time

NAMED: Final = 3
"""Services that the title of a storm names."""

LISTED: Final = 20
"""Services that the body of a storm lists."""

_LONGEST_LINE = 500
_LONGEST_NAME = 128
_LONGEST_URL = 2_048

Severity = Literal["critical", "error", "warning", "info"]
_SEVERITIES: Final[Mapping[str, Severity]] = {"p1": "critical", "p2": "error", "p3": "warning"}


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """An alert as it was when there was something to tell of it."""

    id: int
    service: str
    priority: str
    reasons: tuple[str, ...]
    opened_at: datetime
    resolved_at: datetime | None = None
    resolution: str | None = None
    acknowledged_by: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()
    runbook_url: str | None = None
    last_success_at: datetime | None = None

    @classmethod
    def from_payload(cls, alert: Mapping[str, Any]) -> AlertFacts:
        """Read what `to_payload` wrote; keys that are not known are passed over."""
        return cls(
            id=int(alert["id"]),
            service=str(alert["service"]),
            priority=str(alert["priority"]),
            reasons=tuple(map(str, alert["reasons"])),
            opened_at=parse_time(alert["opened_at"], path="opened_at"),
            resolved_at=_time(alert, "resolved_at"),
            resolution=alert.get("resolution"),
            acknowledged_by=alert.get("acknowledged_by"),
            team=alert.get("team"),
            tags=tuple(map(str, alert.get("tags") or ())),
            runbook_url=alert.get("runbook_url"),
            last_success_at=_time(alert, "last_success_at"),
        )

    def to_payload(self) -> dict[str, Any]:
        """The facts as JSON, without what is not there."""
        facts = {
            "id": self.id,
            "service": self.service,
            "priority": self.priority,
            "reasons": list(self.reasons),
            "opened_at": format_time(self.opened_at),
            "resolved_at": format_time(self.resolved_at) if self.resolved_at else None,
            "resolution": self.resolution,
            "acknowledged_by": self.acknowledged_by,
            "team": self.team,
            "tags": list(self.tags),
            "runbook_url": self.runbook_url,
            "last_success_at": format_time(self.last_success_at) if self.last_success_at else None,
        }
        return {name: value for name, value in facts.items() if value is not None}

    @property
    def severity(self) -> Severity:
        return _SEVERITIES.get(self.priority, "info")


@dataclass(frozen=True, slots=True)
class Question:
    """What a human is to decide, for targets whose messages have buttons.

    :param kind: ``approval``, or ``doubt``: whether a step happened.
    :param about: the approval's number, or ``execution.position.epoch`` of the attempt.
    """

    kind: str
    about: str

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Question | None:
        """The question of a delivery's payload, if it asks one."""
        approval, doubt = payload.get("approval"), payload.get("doubt")
        if approval:
            return cls("approval", str(approval["id"]))
        if doubt:
            return cls("doubt", f"{doubt['execution']}.{doubt['position']}.{doubt['epoch']}")
        return None


@dataclass(frozen=True, slots=True)
class Notification:
    """One thing to tell.

    :param kind: as in the table of deliveries.
    :param at: when it happened, or when it is told; the length of what is still open is counted to it.
    :param base_url: where people reach Medic.
    :param reason: the reason that joined.
    :param text: what a notice or a test says, or why an alert was escalated before its time.
    :param asks: what a notice asks a human to decide.
    """

    kind: str
    alerts: tuple[AlertFacts, ...]
    at: datetime
    base_url: str
    reason: str | None = None
    text: str | None = None
    asks: Question | None = None

    @property
    def alert(self) -> AlertFacts | None:
        """The alert, when this is about exactly one."""
        return self.alerts[0] if len(self.alerts) == 1 else None

    @property
    def severity(self) -> Severity:
        """The gravest of the alerts."""
        order: Sequence[Severity] = ("critical", "error", "warning", "info")
        return min((alert.severity for alert in self.alerts), key=order.index, default="info")

    @property
    def is_over(self) -> bool:
        """Whether this tells that something ended well enough to leave people alone."""
        return self.kind == "resolved"

    @property
    def url(self) -> str:
        """Where to look.  The page lists what is open; an alert has no page of its own."""
        return self.base_url.rstrip("/") + "/"

    def title(self) -> str:
        """One line that says what happened to what."""
        if self.alert is not None:
            return _line(self._of_one(self.alert))
        if self.alerts:
            return _line(self._of_many())
        said = next(iter(_lines(self.text or "")), "")
        return said or ("A test from Medic" if self.kind == "test" else "A notice from Medic")

    def summary_lines(self) -> list[str]:
        """What else is worth knowing, a line each; the links are apart."""
        if self.alert is not None:
            return [_line(line) for line in self._about_one(self.alert)]
        if self.alerts:
            return [_line(line) for line in self._about_many()]
        more = _lines(self.text or "")[1:LISTED]
        return more or (["This target works."] if self.kind == "test" else [])

    def links(self) -> list[tuple[str, str]]:
        """Labels and addresses: runbooks, then Medic itself."""
        runbooks: dict[str, str] = {}
        for alert in self.alerts:
            if alert.runbook_url and (url := _web_address(alert.runbook_url)):
                runbooks.setdefault(url, _name(alert.service))
        first = list(runbooks.items())[:NAMED]
        one = self.alert is not None
        named = [("Runbook" if one else f"Runbook of {service}", url) for url, service in first]
        return [*named, ("Medic", self.url)]

    def text_lines(self) -> list[str]:
        """The whole as plain text, for media that know no links."""
        return [*self.summary_lines(), *(f"{label}: {url}" for label, url in self.links())]

    def _of_one(self, alert: AlertFacts) -> str:
        service, priority = _name(alert.service), _plain(alert.priority)
        match self.kind:
            case "resolved":
                return f"{service} {self._ended(alert)}"
            case "acknowledged":
                return f"{service}: acknowledged by {_name(alert.acknowledged_by or 'someone')} ({priority})"
            case "reason_joined" if self.reason and len(alert.reasons) > 1:
                before = _words([reason for reason in alert.reasons if reason != self.reason])
                return (
                    f"{service} {_state(alert.reasons)}: {before}, now also {_word(self.reason)} ({priority})"
                )
        state = f"{_state(alert.reasons, still=self.kind == 'renotified')}: {_words(alert.reasons)}"
        if self.kind == "renotified":
            return f"{service} {state} ({priority}), for {_length(self.at - alert.opened_at)}"
        if self.kind == "escalated":
            return f"Escalated: {service} {state} ({priority})"
        return f"{service} {state} ({priority})"

    def _ended(self, alert: AlertFacts) -> str:
        after = f"after {_length((alert.resolved_at or self.at) - alert.opened_at)}"
        match alert.resolution:
            case "paused" | "deleted":
                return f"was {alert.resolution}: its alert is closed"
            case "manual":
                return f"was resolved by hand {after}"
            case "run_ended":
                return f"is fine again, its run ended {after}"
            case "policy_changed":
                return f"is fine by its new policy {after}"
        return f"recovered {after}"

    def _of_many(self) -> str:
        names = list(dict.fromkeys(_name(alert.service) for alert in self.alerts))
        who = ", ".join(names[:NAMED])
        if len(names) > NAMED:
            who += f" and {len(names) - NAMED} more"
        what, one, many = {
            "resolved": ("recovered", "", ""),
            "acknowledged": ("acknowledged", "is ", "are "),
            "renotified": ("still failing", "is ", "are "),
        }.get(self.kind, ("failing", "is ", "are "))
        count = "1 service " + one if len(names) == 1 else f"{len(names)} services {many}"
        return f"{'Escalated: ' if self.kind == 'escalated' else ''}{count}{what}: {who}"

    def _about_one(self, alert: AlertFacts) -> Iterable[str]:
        if self.is_over:
            yield f"It had been failing since {_moment(alert.opened_at)}: {_words(alert.reasons)}."
            return
        yield f"Since {_moment(alert.opened_at)}."
        if alert.last_success_at is not None:
            yield f"Last success {_moment(alert.last_success_at)}."
        if self.kind == "escalated":
            yield self.text or "Nobody acknowledged it in time."
        if alert.acknowledged_by and self.kind != "acknowledged":
            yield f"Acknowledged by {_name(alert.acknowledged_by)}."
        if alert.team:
            yield f"Team {_name(alert.team)}."
        if alert.tags:
            yield f"Tags: {', '.join(map(_name, alert.tags))}."

    def _about_many(self) -> Iterable[str]:
        counts = Counter(_plain(alert.priority) for alert in self.alerts)
        yield ", ".join(f"{priority}: {count}" for priority, count in sorted(counts.items())) + "."
        for alert in self.alerts[:LISTED]:
            service = _name(alert.service)
            if self.is_over:
                yield f"{service} {self._ended(alert)}"
            else:
                yield f"{service}: {_words(alert.reasons)} ({_plain(alert.priority)})"
        if len(self.alerts) > LISTED:
            yield f"and {len(self.alerts) - LISTED} more"


def _time(alert: Mapping[str, Any], name: str) -> datetime | None:
    value = alert.get(name)
    return None if value is None else parse_time(value, path=name)


def _state(reasons: Sequence[str], *, still: bool = False) -> str:
    """A service that beats too seldom, or runs too long, is not down."""
    down = "missed" in reasons or "failed" in reasons
    return f"is {'still ' if still else ''}{'down' if down else 'failing'}"


def _words(reasons: Sequence[str]) -> str:
    return ", ".join(map(_word, reasons)) or "no reason left"


def _word(reason: str) -> str:
    return _plain(reason).replace("_", " ")


def _length(span: timedelta) -> str:
    """A span in its two greatest units at most: what people say."""
    seconds = max(int(span.total_seconds()), 0)
    unit = next((unit for least, unit in ((86_400, 3_600), (3_600, 60), (60, 60)) if seconds >= least), 1)
    return format_duration(timedelta(seconds=seconds // unit * unit))


def _moment(at: datetime) -> str:
    return format_time(at)[:16].replace("T", " ") + " UTC"


def _plain(text: str) -> str:
    """Text on one line: no control, no format and no surrogate characters.

    A direction mark could show a line in another order than it is written.
    """
    clean = "".join(" " if unicodedata.category(char) in _UNFIT else char for char in text)
    return " ".join(clean.split())


_UNFIT = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _shorten(text: str, longest: int = _LONGEST_LINE) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _name(text: str) -> str:
    return _shorten(_plain(text), _LONGEST_NAME)


def _line(text: str) -> str:
    return _shorten(_plain(text))


def _lines(text: str) -> list[str]:
    found = (_line(line) for line in text.splitlines())
    return [line for line in found if line]


def _web_address(url: str) -> str | None:
    """The URL when it is one that a person may be sent to, and holds nothing that ends a link early."""
    if len(url) > _LONGEST_URL or any(char in _BREAKING or not " " < char < "\x7f" for char in url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in {"http", "https"} and parts.netloc else None


_BREAKING = frozenset('<>"|\\^`{}')
