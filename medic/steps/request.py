"""An HTTP request as a playbook writes it: ``url``, ``method``, ``headers``, ``body``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from medic.errors import Invalid
from medic.playbook.address import Address
from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Reference, Scope
from medic.playbook.template import (
    Listed,
    Mapped,
    Template,
    Text,
    Tree,
    Value,
    as_text,
    render_tree,
    tree_references,
)

METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_MOST_BODY = 1_048_576
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# The client frames and routes the message; the fencing token must be the true one.
_OURS = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding",
    "upgrade", "medic-fencing-token",
})  # fmt: skip
_TELLING = re.compile(r"auth|cookie|token|secret|key|pass|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """A request as parsed."""

    method: str
    address: Address
    headers: Mapped
    body: Tree


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its values in; `shown` is its redacted twin.  Header names in lower case."""

    method: str
    url: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    shown: dict[str, Json]


def read_request(reader: Reader, *, methods: Iterable[str] = METHODS, method: str = "POST") -> RequestSpec:
    """Read the keys; a step type reads what else it has after this."""
    allowed = tuple(methods)
    address = reader.address("url")
    word = reader.text("method", method).strip().upper()
    if word not in allowed:
        reader.problem(f"'{word[:20]}' is not allowed; known: {', '.join(allowed)}", "method")
    headers = _read_headers(reader)
    body = reader.tree("body")
    _check_destination(reader, address, (*tree_references(headers), *tree_references(body)))
    return RequestSpec(word, address, headers, body)


def _read_headers(reader: Reader) -> Mapped:
    inner = reader.mapping("headers")
    tree = reader.tree("headers") if inner is not None else None
    if inner is None or not isinstance(tree, Mapped):
        return Mapped(())
    for key, value in tree.entries:
        if isinstance(value, Mapped | Listed):
            inner.problem("a header's value must be a single value", key.source)
        if key.references:
            _refuse_secret_names(inner, key)
        elif trouble := _trouble_with(key.source):
            inner.problem(trouble, key.source)
    return tree


def _refuse_secret_names(reader: Reader, key: Template) -> None:
    if any(reference.kind == "secret" for reference in key.references):
        reader.problem("a secret may not be used in the name of a header", key.source)


def _trouble_with(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return f"'{name[:40]}' is no name of a header"
    if name.lower() in _OURS or name.lower().startswith("proxy-"):
        return f"the header {name} is set by Medic; leave it out"
    return None


def _check_destination(reader: Reader, address: Address, rest: Iterable[Reference]) -> None:
    """Where a secret is sent must be the author's decision, not that of whoever supplies a value."""
    sends = [ref for ref in (*rest, *address.template.references) if ref.kind == "secret"]
    if not sends or address.pinned:
        return
    for reference in address.address_references:
        if reference.kind != "variable" or reference.name not in reader.findings.declared:
            reader.problem(
                f"{reference} decides where {sends[0]} is sent; write the host out, end it in a written-out domain, "
                "or declare the name under variables",
                "url",
                near=str(reference),
            )


def render_request(spec: RequestSpec, scope: Scope) -> Request:
    """Put the values in.

    :raises Invalid: when one is missing or does not fit its place.
    """
    try:
        url = spec.address.render(scope)
    except Invalid as error:
        raise Invalid.at("url", error.message) from None
    headers, shown = _render_headers(spec.headers, scope)
    body = render_tree(spec.body, scope)
    payload = _encode(body, headers)
    view: dict[str, Json] = {"method": spec.method, "url": url.shown, "headers": shown}
    if payload is not None:
        view["body"] = body.shown
    return Request(spec.method, url.value, headers, payload, view)


def _render_headers(tree: Mapped, scope: Scope) -> tuple[dict[str, str], dict[str, Json]]:
    headers: dict[str, str] = {}
    shown: dict[str, Json] = {}
    for key, child in tree.entries:
        name = key.render(scope).value
        path = f"headers.{name[:64]}"
        if trouble := _trouble_with(name):
            raise Invalid.at("headers", trouble)
        if name.lower() in headers:
            raise Invalid.at(path, "is there twice")
        value = _render_header(child, scope, path)
        if not _VALUE.fullmatch(value.value):
            raise Invalid.at(path, "has a line break or a character that a header cannot carry")
        headers[name.lower()] = value.value
        # A credential written into the playbook itself is no `${secrets.X}`, and still nobody's business.
        plain = _TELLING.search(name) and value.value == value.shown
        shown[name] = "[redacted]" if plain else value.shown
    return headers, shown


def _render_header(child: Tree, scope: Scope, path: str) -> Text:
    try:
        if isinstance(child, Template):
            return child.render(scope)
        text = (
            as_text(render_tree(child, scope).value, Reference("variable", "value"))
            if child is not None
            else ""
        )
    except Invalid as error:
        raise Invalid.at(path, error.message) from None
    return Text(text, text)


def _encode(body: Value, headers: dict[str, str]) -> bytes | None:
    """A text is sent as it is, anything else as JSON; sets the content type unless the playbook does."""
    value = body.value
    if value is None:
        return None
    if isinstance(value, str):
        payload = value.encode("utf-8", "replace")
        headers.setdefault("content-type", "text/plain; charset=utf-8")
    else:
        payload = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers.setdefault("content-type", "application/json")
    if len(payload) > _MOST_BODY:
        raise Invalid.at("body", "is larger than 1 MiB once its values are in")
    return payload
