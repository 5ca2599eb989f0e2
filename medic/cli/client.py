"""Medic's API from the command line.  What it refuses comes back as our own error tree."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

from medic import __version__
from medic.cli.output import printable
from medic.client.address import Address
from medic.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Malformed,
    MedicError,
    NotFound,
    PreconditionFailed,
    Problem,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

CONNECT_S = 5.0
READ_S = 30.0
PAGE = 250

_KINDS: dict[int, type[MedicError]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    422: Invalid,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered: the JSON body (None when there is none) and the ETag."""

    status: int
    body: Any
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """The first items of a list, and whether there are more."""

    items: list[dict[str, Any]]
    has_more: bool


class _Bearer(AuthBase):
    """Says the key.  As an auth object, so that a ``.netrc`` cannot put another in its place."""

    def __init__(self, address: Address) -> None:
        self._key = address.key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key.reveal()}"
        return request


class Client:
    """Calls to one server.  Every one is bounded in time; redirects are not followed."""

    def __init__(self, address: Address, *, connect_s: float = CONNECT_S, read_s: float = READ_S) -> None:
        if address.key is not None and not address.key.is_sendable():
            raise Unauthenticated("The API key holds characters that no key has; look where it comes from.")
        self.url = address.url
        self._timeout = (connect_s, read_s)
        self._session = requests.Session()
        # A proxy of the network cannot reach our own loopback; elsewhere the environment's is right.
        self._session.trust_env = not is_loopback(address.url)
        self._session.auth = _Bearer(address)
        self._session.headers.update(
            {"User-Agent": f"medic/{__version__}", "Accept": "application/json, application/problem+json"}
        )

    def call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Any = None,
        text: str | None = None, if_match: str | None = None,
    ) -> Reply:  # fmt: skip
        """One request.

        :param path: from ``/v1`` on, each part quoted (see `part`).
        :param text: a body of YAML, in place of ``json``.
        :raises MedicError: what the API refuses, as the class of its status; `Unavailable` when no answer
            comes, or none of Medic's.
        """
        headers = {"If-Match": if_match} if if_match is not None else {}
        if text is not None:
            headers["Content-Type"] = "application/yaml"
        try:
            response = self._session.request(
                method,
                self.url + path,
                params={name: value for name, value in (params or {}).items() if value is not None},
                json=json,
                data=text.encode() if text is not None else None,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.Timeout:
            raise Unavailable(f"Medic at {self.url} did not answer in time.") from None
        except requests.exceptions.SSLError as error:
            raise Unavailable(f"The TLS certificate of {self.url} does not hold: {_reason(error)}") from None
        except requests.RequestException as error:
            raise Unavailable(f"Medic at {self.url} cannot be reached ({_reason(error)}).") from None
        return self._read(response)

    def get(self, path: str, **params: Any) -> Any:
        """The body of a GET."""
        return self.call("GET", path, params=params).body

    def items(self, path: str, *, limit: int, **params: Any) -> Listed:
        """The first ``limit`` items of a list, page by page."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            size = min(PAGE, limit - len(found))
            page = self.call("GET", path, params=params | {"limit": size, "after": after}).body
            found += page["items"]
            after = page["next"]
            if after is None or len(found) >= limit:
                return Listed(found[:limit], has_more=after is not None)

    def _read(self, response: requests.Response) -> Reply:
        status = response.status_code
        if 300 <= status < 400:
            raise Unavailable(
                f"{self.url} sends its callers on to {printable(response.headers.get('Location', '?'))}: "
                "if that is your Medic, give it as --url. The key was not sent there."
            )
        try:
            body = response.json() if response.content else None
        except requests.JSONDecodeError:
            raise Unavailable(f"{self.url} answered {status}, but not as Medic does.") from None
        if status >= 400:
            raise refusal(status, body, retry_after=response.headers.get("Retry-After"))
        return Reply(status, body, response.headers.get("ETag"))


def refusal(status: int, body: Any, *, retry_after: str | None = None) -> MedicError:
    """A problem (RFC 9457) as the error that the API raised."""
    body = body if isinstance(body, dict) else {}
    message = printable(str(body.get("detail") or body.get("title") or f"The server answered {status}."))
    wait = float(retry_after) if retry_after and retry_after.isdecimal() else 5.0
    if status == 429:
        return Throttled(f"{message} (again in {wait:.0f} s)", retry_after=wait)
    if status >= 500:
        request_id = body.get("request_id")
        seen = f" (request {request_id})" if request_id and status == 500 else ""
        kind = Unavailable if status in {502, 503, 504} else MedicError
        return kind(message + seen)
    kind = _KINDS.get(status, MedicError)
    if issubclass(kind, Invalid):
        return kind(message, problems=tuple(_problem(item) for item in body.get("problems") or ()))
    return kind(message)


def part(text: object) -> str:
    """One part of a path."""
    return quote(str(text), safe="")


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine by its own look, without asking a name server."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _problem(item: dict[str, Any]) -> Problem:
    return Problem(
        printable(str(item.get("path", ""))),
        printable(str(item.get("message", ""))),
        item.get("line"),
        item.get("column"),
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, which alone says something: requests wraps urllib3 wraps the system's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror and not isinstance(seen, requests.RequestException):
            return seen.strerror
        inner = [argument for argument in seen.args if isinstance(argument, BaseException)]
        reason = getattr(seen, "reason", None)
        following = reason if isinstance(reason, BaseException) else (inner[0] if inner else None)
        if following is None:
            following = seen.__cause__ or seen.__context__
        if following is None or following is seen:
            return type(seen).__name__
        seen = following
    return type(error).__name__
