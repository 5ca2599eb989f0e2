"""URLs with references in them, and where each reference may stand.

    https://ops.example.com:8443/hosts/${HOST}/restart?why=${ALERT_ID}
    scheme  host            port path                  query

- Path and query: the value is percent-encoded whole, so it adds no host, segment or parameter; in the path
  it is also never empty, ``.`` or ``..``.  Secrets may stand here, and only here.
- Host and port: a host is letters, digits, ``.``, ``-`` and ``_``; a port is a number.
- A URL may begin with a reference, as ``${URL}`` alone or ``${BASE}/restart``: the value is then taken as
  it is, must be an http or https URL without user name or password, and no query when more text follows.

An address is *pinned* when its host is the author's: written out, or ending in a written-out domain
(``${SERVICE_NAME}.ops.example.com``).  A step that sends a secret to an address that is not pinned may
name only variables that its playbook declares there (`medic.steps.request` holds that rule).
RFC 3986 section 3 names the parts; the safe client judges the address once more when it connects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from medic.errors import Invalid
from medic.playbook.scope import Json, Reference, Scope
from medic.playbook.template import EMPTY, Template, Text, as_text, parse_template

Place = Literal["base", "scheme", "host", "port", "path", "query"]

_ADDRESS_PLACES: frozenset[Place] = frozenset({"base", "scheme", "host", "port"})
_LONGEST_URL = 2_048
_UNWANTED = re.compile(r"[\s\x00-\x20\x7f\\]")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_PINNED_HOST = re.compile(r"\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\.?", re.ASCII)
_TELLING = re.compile(
    r"([?&][^=&#]*(?:token|key|secret|pass|pwd|sig|auth|credential|code)[^=&#]*=)(?!\[secret:)[^&#]+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL.  ``places`` has one entry per part; a literal's place is that of its end."""

    template: Template = EMPTY
    places: tuple[Place, ...] = ()
    pinned: bool = True

    @property
    def address_references(self) -> tuple[Reference, ...]:
        """The references that decide where the request goes."""
        pairs = zip(self.template.parts, self.places, strict=True)
        return tuple(
            part for part, place in pairs if isinstance(part, Reference) and place in _ADDRESS_PLACES
        )

    def render(self, scope: Scope) -> Text:
        """Put the values in.

        :raises Invalid: when a value is missing or does not fit its place, or the whole is no http URL.
        """
        value, shown = [], []
        parts = self.template.parts
        for at, (part, place) in enumerate(zip(parts, self.places, strict=True)):
            if isinstance(part, str):
                value.append(part)
                shown.append(part)
                continue
            text = _fit(scope.find(part), part, place)
            if place == "base" and len(parts) > 1:
                text = _as_base(text, part, following=parts[at + 1])
            value.append(text)
            shown.append(_show(text, part, place))
        whole = "".join(value)
        _check(whole)
        if any(
            isinstance(part, Reference) and place == "path"
            for part, place in zip(parts, self.places, strict=True)
        ):
            _check_path(whole)
        return Text(whole, _TELLING.sub(r"\1[redacted]", "".join(shown)))


def parse_address(text: str) -> Address:
    """Read a URL with references.

    :raises Invalid: when it is no http or https URL, or a secret stands outside path and query.
    """
    template = parse_template(text)
    parts = template.parts
    if not parts or (isinstance(parts[0], str) and not re.match(r"https?://", parts[0], re.IGNORECASE)):
        raise Invalid("must start with http:// or https://")
    places: list[Place] = []
    prefix = ""
    for at, part in enumerate(parts):
        if isinstance(part, str):
            if _UNWANTED.search(part):
                raise Invalid("has a space, a backslash or a control character in it; percent-encode it")
            prefix += part
            places.append(_place(prefix))
            continue
        place = _first_place(parts) if at == 0 else _place(prefix)
        if part.kind == "secret" and place in _ADDRESS_PLACES:
            raise Invalid(
                f"{part} stands in the {_named(place)}; a secret may only be in the path or the query"
            )
        prefix += {"base": "b://b", "scheme": "s"}.get(place, "v")
        places.append(place)
    _refuse_credentials(prefix)
    return Address(template, tuple(places), pinned=_is_pinned(template, tuple(places)))


def _named(place: Place) -> str:
    return "scheme and host" if place == "base" else place


def _first_place(parts: tuple[str | Reference, ...]) -> Place:
    following = parts[1] if len(parts) > 1 else ""
    return "scheme" if isinstance(following, str) and following.startswith("://") else "base"


def _place(prefix: str) -> Place:
    rest = prefix.partition("://")[2]
    if "?" in rest or "#" in rest:
        return "query"
    if "/" in rest:
        return "path"
    return "port" if ":" in rest.rpartition("]")[2] else "host"


def _refuse_credentials(prefix: str) -> None:
    authority = re.split(r"[/?#]", prefix.partition("://")[2], maxsplit=1)[0]
    if "@" in authority:
        raise Invalid("has a user name or password in it; send them in a header")


def _is_pinned(template: Template, places: tuple[Place, ...]) -> bool:
    if "base" in places:
        return False
    last = max(
        (at for at, place in enumerate(places) if place == "host" and _is_reference(template, at)), default=-1
    )
    if last < 0:
        return True
    following = template.parts[last + 1] if last + 1 < len(places) else ""
    tail = re.split(r"[/?#:]", following, maxsplit=1)[0] if isinstance(following, str) else ""
    return bool(_PINNED_HOST.fullmatch(tail))


def _is_reference(template: Template, at: int) -> bool:
    return isinstance(template.parts[at], Reference)


def _fit(value: Json, reference: Reference, place: Place) -> str:
    if isinstance(value, dict | list):
        raise Invalid(f"{reference} is a list or an object, which a URL cannot hold")
    text = as_text(value, reference)
    if place == "base":
        _check(text)
        return text
    if place == "scheme" and text.lower() not in {"http", "https"}:
        raise Invalid(f"{reference} must be http or https")
    if place == "host" and not _HOST.fullmatch(text):
        raise Invalid(f"{reference} stands in the host, and its value is no host name")
    if place == "port" and not _PORT.fullmatch(text):
        raise Invalid(f"{reference} stands for the port, and its value is no number")
    if place == "path" and not text:
        raise Invalid(f"{reference} is empty, which would make the URL another one")
    if place not in {"path", "query"}:
        return text
    try:
        return quote(text, safe="", errors="strict")
    except UnicodeEncodeError:
        raise Invalid(f"{reference} has half a character in it") from None


def _as_base(text: str, reference: Reference, *, following: str | Reference) -> str:
    if "?" in text or "#" in text:
        raise Invalid(f"{reference} has a query, and more text follows it")
    path = urlsplit(text).path
    if isinstance(following, str) and following[0] in "/?#":
        return text.rstrip("/") if following[0] == "/" else text
    if path:
        raise Invalid(f"{reference} ends in a path, and what follows does not start with /")
    return text


def _show(text: str, reference: Reference, place: Place) -> str:
    if reference.kind == "secret":
        return f"[secret:{reference.name}]"
    if place == "base":
        # The path of an address that came in as a value is often the credential itself.
        split = urlsplit(text)
        return f"{split.scheme}://{split.netloc}" + ("/…" if split.path.strip("/") or split.query else "")
    return text


def _check(url: str) -> None:
    try:
        split = urlsplit(url)
        usable = split.scheme in {"http", "https"} and bool(split.hostname)
        usable = usable and split.port != 0 and split.username is None and split.password is None
    except ValueError:
        usable = False
    if not usable or _UNWANTED.search(url) or len(url) > _LONGEST_URL:
        raise Invalid("is no http or https URL once its values are in")


def _check_path(url: str) -> None:
    # Servers and proxies decode before they resolve dots, some of them twice.
    decoded = unquote(unquote(urlsplit(url).path))
    if any(segment in {".", ".."} for segment in re.split(r"[/\\]", decoded)):
        raise Invalid("has . or .. in its path once its values are in")
