"""Take secrets out of what is about to be written down.  Pure.

A seat belt, not a lock: it knows the shapes of Medic's own keys, of credentials in headers and URLs, and
the names of fields that hold secrets.  Code must still not log a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from medic.times import format_time

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

HIDDEN: Final = "[redacted]"

MAX_TEXT: Final = 16_384
"""Characters of one value that are kept: a log collector refuses lines of more than some 64 KiB."""

_MAX_DEPTH: Final = 8

# Each pattern runs only where one of its words stands in the text (in lower case): most lines hold none.
# Each starts at such a word and holds no nested repetition, so that it stays linear on hostile text.
_SHAPES: Final[tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...]] = (
    # Medic's keys: the public id stays, it says which key to revoke.
    (("mdk_",), re.compile(r"mdk_([0-9A-Za-z]{12})_[0-9A-Za-z]{8,}"), rf"mdk_\1_{HIDDEN}"),
    (("whsec_",), re.compile(r"whsec_[0-9A-Za-z+/=_-]+"), f"whsec_{HIDDEN}"),
    (("xox",), re.compile(r"xox[a-z]-[0-9A-Za-z-]+"), HIDDEN),
    # Authorization, Proxy-Authorization, and schemes that stand alone.
    (
        ("authorization",),
        re.compile(
            r"(authorization[\"']?\s{0,3}[:=,]\s{0,3}b?[\"']?)(?:[A-Za-z][\w-]{1,15}[ ]{1,3})?[^\s\"',;]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (
        ("bearer", "basic"),
        re.compile(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC) {1,3}(?=[^\s\"',;]*[0-9A-Z=_-])[^\s\"',;]{6,}"),
        rf"\1 {HIDDEN}",
    ),
    # user:password@ of a URL, also with a bare @ in the password.
    (("://",), re.compile(r"(://[^\s/:@\"']*):[^\s/\"']+@"), rf"\1:{HIDDEN}@"),
    # password=…, ?api_key=…, "token": "…"
    (
        ("password", "passwd", "secret", "token", "key"),
        re.compile(
            r"((?:password|passwd|secret|token|api[_-]?key)(?:[\"']?\s{0,3}=\s{0,3}|[\"']\s{0,3}:\s{0,3})[\"']?)"
            r"[^\s\"',;&)}\]]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # Addresses that are themselves the proof: ping URLs, hooks, Slack's webhooks.
    (("/ping/", "/hooks/"), re.compile(r"(/(?:ping|hooks)/)[^\s/?#\"']{8,}"), rf"\1{HIDDEN}"),
    (("hooks.slack.com/",), re.compile(r"(hooks\.slack\.com/[a-z]+/)[^\s\"']+"), rf"\1{HIDDEN}"),
    # Rows that a database error quotes.
    (("[parameters: ",), re.compile(r"\[parameters: [^\n]+"), f"[parameters: {HIDDEN}]"),
    (("failing row",), re.compile(r"Failing row contains [^\n]+"), f"Failing row contains {HIDDEN}"),
)

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ANYWHERE: Final = frozenset({"password", "passwd", "authorization", "cookie", "pepper"})
_LAST: Final = frozenset({"token", "tokens", "secret", "secrets", "key", "keys", "credential", "credentials"})


def redact(text: str) -> str:
    """The text without the credentials in it, cut to `MAX_TEXT` characters."""
    lower = text.lower()
    for words, pattern, instead in _SHAPES:
        if any(word in lower for word in words):
            text = pattern.sub(instead, text)
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT} more)"
    return text


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: ``api_key`` and ``X-Webhook-Secret`` do, ``key_id`` does not."""
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and (words[-1] in _LAST or not _ANYWHERE.isdisjoint(words))


def redact_fields(value: object, *, name: str = "", depth: int = 0) -> Json:
    """The value as JSON, without secrets: strings by `redact`, fields by `is_secret_name`.

    Whether a secret is set at all (a boolean, ``None``) stays.  What JSON cannot hold becomes text, and what
    lies deeper than eight levels is left out.
    """
    if value is None or isinstance(value, bool):
        return value
    if name and is_secret_name(name):
        return HIDDEN
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return format_time(value)
    if isinstance(value, Mapping | list | tuple | AbstractSet):
        if depth >= _MAX_DEPTH:
            return "[deeper]"
        if isinstance(value, Mapping):
            return {
                redact(_text(key)): redact_fields(item, name=_text(key), depth=depth + 1)
                for key, item in value.items()
            }
        return [redact_fields(item, depth=depth + 1) for item in value]
    return redact(_text(value))


def redact_url(url: str) -> str:
    """A URL with no more than its scheme, host and port: paths and queries may hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    if not parts.scheme or not host:
        return HIDDEN
    if ":" in host:
        host = f"[{host}]"
    rest = f"/{HIDDEN}" if parts.path not in {"", "/"} or parts.query else parts.path
    return f"{parts.scheme}://{host}{port}{rest}"


def _text(value: object) -> str:
    # A log line must not fail because an object cannot print itself.
    try:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception:  # noqa: BLE001
        return f"<unprintable {type(value).__name__}>"
