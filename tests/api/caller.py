"""A caller of the API, and what its refusals look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PLAYBOOK = """\
name: restart
steps:
  - name: pause
    type: wait
    duration: 30s
  - name: verify
    type: condition
    check: heartbeat_received
    timeout: 5m
"""


@dataclass
class Api:
    """A caller with one key (or none)."""

    client: FlaskClient
    key: str | None

    def __call__(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str
    ) -> TestResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key is not None:
            sent.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None:
            raw = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return self.client.open(path, method=method, data=raw, headers=sent, buffered=True)

    def put_yaml(self, path: str, text: str, *, method: str = "PUT", **headers: str) -> TestResponse:
        return self(method, path, raw=text.encode(), Content_Type="application/yaml", **headers)


MakeKey = Callable[..., str]
MakeApi = Callable[..., Api]


def problem(response: TestResponse, status: int, path: str | None = None) -> dict[str, Any]:
    """The problem of an answer, checked: its status, its shape, and the field that it names."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.get_json()
    assert body["status"] == status
    assert body["code"]
    assert body["detail"]
    if path is not None:
        assert path in [found["path"] for found in body["problems"]], body
    return body
