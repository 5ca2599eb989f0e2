"""Each field of what people send about telling, in turn replaced by nonsense: refused as theirs, never our mistake."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.caller import Api

NONSENSE: tuple[Any, ...] = (
    "\x00", "\ud800", "9" * 400, "x" * 70_000, 2**64, -1, None, [], {}, True, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
)  # fmt: skip
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PUT", "/v1/targets/hook"): {
        "kind": "webhook", "config": {"url": "https://example.com/", "headers": {"a": "b"}}, "secrets": {"bearer": "x"},
        "per_minute": 3,
    },
    ("PUT", "/v1/targets/mail"): {
        "kind": "email", "secrets": {},
        "config": {"to": ["a@example.com"], "from": "m@example.com", "host": "mail.example.com", "port": 25, "tls": "none"},
    },
    ("PUT", "/v1/targets/chat"): {
        "kind": "slack", "config": {"channel": "C1", "api_url": "https://example.com/"}, "secrets": {"token": "x"},
    },
    ("PUT", "/v1/routes/all"): {
        "levels": [["told"], ["told"]], "match": {"service": "a", "tags": ["a"], "priorities": ["p1"], "reasons": ["missed"]},
        "position": 3, "enabled": True, "default": False, "period": "during_hours", "calendar": "office",
        "mode": "notify_all", "escalate_after": "1m",
    },
    ("POST", "/v1/routes/preview"): {"service": "web", "reason": "missed", "priority": "p1", "at": "2026-01-01T00:00:00Z"},
    ("PUT", "/v1/calendars/hours"): {
        "timezone": "Pacific/Auckland", "hours": {"mon": [["00:00", "24:00"]]}, "holidays": ["2026-01-01"],
    },
    ("PUT", "/v1/windows/rack"): {
        "selector": {"services": ["a"], "tags": ["a"]}, "reason": "x", "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2035-01-01T00:00:00Z", "cron": "1 1 1 1 1", "duration": "1h", "timezone": "Pacific/Auckland",
        "notices": True,
    },
    ("POST", "/v1/mutes"): {"service": "web", "reason": "r", "for": "1h"},
    ("POST", "/v1/keys"): {"name": "a", "scopes": ["audit:read"], "service_patterns": ["a"], "expires_in": "1d"},
}  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*at, key))


def spoiled(body: dict[str, Any]) -> Iterator[Any]:
    """The body with each part replaced, and with a field more in each object."""
    for place in places(body):
        for nonsense in NONSENSE:
            for as_name in (False, True):
                made: Any = [copy.deepcopy(body)]
                holder, key = made, 0
                for step in place:
                    holder, key = holder[key], step
                if not as_name:
                    holder[key] = nonsense
                elif isinstance(holder[key], dict) and isinstance(nonsense, str):
                    holder[key][nonsense] = 1
                else:
                    continue
                yield made[0]


@pytest.mark.parametrize(("way", "body"), BODIES.items(), ids=[path for _, path in BODIES])
def test_nonsense_in_any_field_is_refused_as_the_callers(
    web: Api, way: tuple[str, str], body: dict[str, Any]
) -> None:
    web("PUT", "/v1/targets/told", BODIES["PUT", "/v1/targets/hook"])
    web("PUT", "/v1/calendars/office", BODIES["PUT", "/v1/calendars/hours"])
    assert web("PUT", "/v1/routes/always", BODIES["PUT", "/v1/routes/all"] | {"match": {}}).status_code == 201
    assert web(*way, body).status_code in {200, 201}, "else nothing behind the first check is reached"
    wrong = [
        (answer.status_code, sent)
        for sent in spoiled(body)
        if (answer := web(*way, sent)).status_code not in {200, 201, 400, 409, 422}
        and not (answer.status_code == 404 and sent.get("service") != "web")
    ]
    assert wrong == []
    for path in ("targets", "routes", "calendars", "windows", "mutes", "suppressions", "keys"):
        assert web("GET", f"/v1/{path}").status_code == 200, f"what was taken breaks the list of {path}"
