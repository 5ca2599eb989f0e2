"""JSON to a receiver, through the safe client, and what its answer means.

The safe client is used even where the address is a known one: it reads no proxy of the environment, follows no
redirect with a token in its headers, and ends at its deadline whatever the receiver does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from medic.egress import Response, SafeClient, allow_list
from medic.errors import EgressFailed, EgressRefused
from medic.settings import Settings
from medic.targets.base import Permanent, Temporary

BUSY = frozenset({408, 425, 429})


def post(
    settings: Settings, url: str, body: bytes, *, headers: Mapping[str, str], timeout: float
) -> Response:
    """Send JSON; any answer with a status comes back.

    :raises Temporary: no whole answer came, or the receiver is busy or broken.
    :raises Permanent: the address is refused, and nothing was sent.
    """
    try:
        answer = _client(settings).request(
            "POST", url, headers={"content-type": "application/json", **headers}, body=body, timeout=timeout
        )
    except EgressRefused as refusal:
        raise Permanent(refusal.message, disables=True) from None
    except EgressFailed as failure:
        raise Temporary(f"{failure.message}.") from None
    if answer.status in BUSY or answer.status >= 500:
        raise Temporary(f"The receiver answered {answer.status}.", retry_after=retry_after(answer.headers))
    return answer


def as_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_object(answer: Response) -> dict[str, Any]:
    """The answer's JSON object; an empty one when it holds anything else."""
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the receiver asks for: a number, or a date (RFC 9110 §10.2.3) as its own clock has it."""
    given = headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        return float(given[:9])
    at, now = _date(given), _date(headers.get("date", ""))
    return None if at is None else (at - (now or datetime.now(UTC))).total_seconds()


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@lru_cache(maxsize=4)
def _client(settings: Settings) -> SafeClient:
    """One client per process: it loads the authorities of TLS once per thread."""
    return SafeClient(allow_list(settings))
