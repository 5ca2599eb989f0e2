"""When an HTTP answer counts as a success: status, values in its JSON, a pattern over its body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medic.errors import Invalid
from medic.playbook.glob import matches
from medic.playbook.judgement import equal
from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Reference, Scope
from medic.playbook.template import Mapped, Tree, render_tree, tree_references
from medic.steps.base import Response
from medic.steps.output import read_body

ACCEPTED = frozenset({200, 201, 202})
_CLASS = re.compile(r"[1-5]xx")
_PATH = re.compile(r"[A-Za-z0-9_-]{1,128}(\.[A-Za-z0-9_-]{1,128}){0,15}", re.ASCII)
_KEPT_HEADERS = ("content-type", "date", "etag", "location", "retry-after", "x-request-id")


@dataclass(frozen=True, slots=True)
class Success:
    """The conditions as parsed; all must hold.  `values` maps dotted paths to expected values."""

    status: frozenset[int]
    values: Mapped
    body: str | None


@dataclass(frozen=True, slots=True)
class Expected:
    """The conditions with their values in."""

    status: frozenset[int]
    values: Mapping[str, Json]
    body: str | None


def read_success(reader: Reader, *, default: frozenset[int] = ACCEPTED) -> Success:
    """``success: {status, json, body}``, or the original's ``success_codes: [200]``."""
    if "success_codes" in reader:
        if "success" in reader:
            reader.problem("give success or success_codes, not both", "success_codes")
        return Success(_read_status(reader, "success_codes", default), Mapped(()), None)
    inner = reader.mapping("success")
    if inner is None:
        return Success(default, Mapped(()), None)
    status = _read_status(inner, "status", default)
    values = _read_values(inner)
    body = inner.text("body") if "body" in inner else None
    inner.finish()
    return Success(status, values, body)


def _read_status(reader: Reader, key: str, default: frozenset[int]) -> frozenset[int]:
    if key not in reader:
        return default
    codes: set[int] = set()
    values = reader.values(key)
    for value in values:
        if isinstance(value, str) and _CLASS.fullmatch(value):
            codes.update(range(int(value[0]) * 100, int(value[0]) * 100 + 100))
        elif isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            codes.add(value)
        else:
            reader.problem(f"'{value}' is no HTTP status; write 200 or 2xx", key, near=str(value))
    if not values:
        reader.problem("must name at least one HTTP status", key)
    return frozenset(codes)


def _read_values(reader: Reader) -> Mapped:
    tree: Tree = reader.tree("json")
    if tree is None:
        return Mapped(())
    if not isinstance(tree, Mapped):
        reader.problem("must map paths to values, as {accepted: true, data.state: ok}", "json")
        return Mapped(())
    for key, _ in tree.entries:
        if not _PATH.fullmatch(key.source):
            reader.problem(f"'{key.source[:40]}' is no path; write keys and list positions with dots", "json")
    reader.refuse_secrets("json", tree_references(tree))
    return tree


def render_success(success: Success, scope: Scope) -> Expected:
    """Put the values in.

    :raises Invalid: when one is missing.
    """
    values = {key.source: render_tree(child, scope).value for key, child in success.values.entries}
    return Expected(success.status, values, success.body)


def shortfall(expected: Expected, status: int, body: Json, text: str) -> str | None:
    """What the answer lacks, as the rest of a sentence; None when it is a success."""
    if status not in expected.status:
        return f"answered {status}"
    for path, wanted in expected.values.items():
        try:
            found = Scope(steps={"answer": {"body": body}}).find(
                Reference("step", "answer", ("body", *path.split(".")))
            )
        except Invalid:
            return f"answered without '{path}' in its JSON"
        if not equal(found, wanted):
            return f"answered with another '{path}' than the playbook expects"
    if expected.body is not None and not matches(expected.body, text):
        return "answered with a body that does not match"
    return None


def describe(response: Response) -> tuple[dict[str, Json], str]:
    """An answer as a step's output, and its body as text; both still to be redacted."""
    text = response.body.decode("utf-8", "replace")
    body = read_body(response.body, response.headers.get("content-type", ""), truncated=response.truncated)
    headers: dict[str, Json] = {n: response.headers[n] for n in _KEPT_HEADERS if n in response.headers}
    output: dict[str, Json] = {
        "status": response.status,
        "body": body,
        "headers": headers,
        "duration_ms": round(response.elapsed * 1000),
    }
    return output, text
