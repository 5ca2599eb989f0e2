"""What a request may say: methods and header fields (RFC 9110 §5, §9).  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medic.errors import EgressRefused

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_OURS = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)  # fmt: skip
_CROSS_ORIGIN = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "idempotency-key", "user-agent"}
)


def clean_method(method: str) -> str:
    """The method in capitals.

    :raises EgressRefused: for CONNECT, TRACE and whatever is no method of RFC 9110 or RFC 5789.
    """
    word = method.upper() if method.isascii() else ""
    if word not in METHODS:
        raise EgressRefused("method is not allowed", message="This HTTP method is not allowed")
    return word


def clean_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The header fields with names in lower case.

    :raises EgressRefused: for a field that frames or routes the message (the client writes these itself),
        a doubled one, or one that could start another line.
    """
    clean: dict[str, str] = {}
    for name, value in headers.items():
        field = name.lower()
        if not _TOKEN.fullmatch(name):
            raise EgressRefused("header with an impossible name", message="A header has an impossible name")
        if field in _OURS or field.startswith("proxy-"):
            raise EgressRefused(f"header {field} is not the caller's", message=f"Header {name} cannot be set")
        if field in clean:
            raise EgressRefused(f"header {field} twice", message=f"Header {name} is given twice")
        if not _VALUE.fullmatch(value):
            raise EgressRefused(
                f"header {field} has an impossible value",
                message=f"Header {name} holds a line break or a character that headers cannot carry",
            )
        clean[field] = value.strip(" \t")
    return clean


def cross_origin_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What may follow a redirect to another origin.

    A list of what stays, since a secret may stand in a header of any name.
    """
    return {name: value for name, value in headers.items() if name in _CROSS_ORIGIN}


def bodiless_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What stays when a redirect turned the request into a GET without a body (RFC 9110 §15.4)."""
    return {name: value for name, value in headers.items() if not name.startswith("content-")}
