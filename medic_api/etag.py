"""ETags: a version in quotes; ``If-Match`` refuses a lost update (RFC 9110, section 13.1.1)."""

from __future__ import annotations

import re
from typing import Any

from flask import request

from medic.errors import Invalid

IF_MATCH = {"If-Match": "The ETag that you saw; another version is a 412."}
_TAG = re.compile(r'(?:W/)?"(\d{1,18})"', re.ASCII)


def with_etag(
    body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """A view's answer with the ETag of its ``version``."""
    return body, status, {"ETag": f'"{body["version"]}"'} | (headers or {})


def if_match() -> int | None:
    """The version that the caller saw; None for no header or ``*``.

    :raises Invalid: when the header is none of our ETags.
    """
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    match = _TAG.fullmatch(given.strip())
    if match is None:
        raise Invalid.at("If-Match", "is not an ETag of Medic")
    return int(match[1])
