"""What a webhook's body holds: values by their path, and the groups of Alertmanager.  Pure."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pydantic_core import from_json

from medic.errors import Invalid, Malformed

MAX_PATH: Final = 256
MAX_PARTS: Final = 16
MISSING: Final = object()
"""What is at a path where there is nothing."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)
_BAD_ESCAPE = re.compile(r"~(?![01])")


@dataclass(frozen=True, slots=True)
class Group:
    """One notification of Alertmanager: it is about a group of alerts."""

    digest: bytes
    status: Literal["firing", "resolved"]


def read_body(raw: bytes) -> Any:
    """A body as JSON; an empty one is an object without fields.

    :raises Malformed: it is not JSON that can be stored.
    """
    try:
        body = from_json(raw, allow_inf_nan=False) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise Malformed("The body is not JSON.") from None
    return body


def parse_path(text: str, *, path: str) -> tuple[str, ...]:
    """Read a path into a body: ``commonLabels.host``, ``alerts.0.labels.host``, or a JSON Pointer, as ``/a~1b/0``.

    :raises Invalid: naming ``path``, when it is neither.
    """
    if not 1 <= len(text) <= MAX_PATH or "\x00" in text:
        raise Invalid.at(path, f"must be a path of 1 to {MAX_PATH} characters")
    if text.startswith("/"):
        if _BAD_ESCAPE.search(text):
            raise Invalid.at(path, "is no JSON Pointer: ~ is written ~0, and / inside of a name ~1")
        parts = tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))
    else:
        parts = tuple(text.split("."))
        if not all(parts):
            raise Invalid.at(
                path, "is no path; write it as alerts.0.labels.host, or as /alerts/0/labels/host"
            )
    if len(parts) > MAX_PARTS:
        raise Invalid.at(path, f"must have at most {MAX_PARTS} parts")
    return parts


def value_at(body: Any, parts: tuple[str, ...]) -> Any:
    """The value at a path, or `MISSING`."""
    value = body
    for part in parts:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and _NUMBER.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def is_storable(value: Any) -> bool:
    """Whether PostgreSQL can hold a JSON value: it takes no NUL and no half of a surrogate pair."""
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_storable(key) and is_storable(item) for key, item in value.items())
    return all(map(is_storable, value)) if isinstance(value, list) else True


def group_of(body: Any) -> Group | None:
    """The group that a notification of Alertmanager (or of Grafana, which sends the same) is about; else None."""
    if not isinstance(body, dict):
        return None
    key, status = body.get("groupKey"), body.get("status")
    if (
        not isinstance(key, str)
        or status not in ("firing", "resolved")  # a tuple: a stranger's list or object has no hash
        or not isinstance(body.get("alerts"), list)
    ):
        return None
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return Group(digest, cast("Literal['firing', 'resolved']", status))
