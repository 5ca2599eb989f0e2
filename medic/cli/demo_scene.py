"""What `medic demo` watches: a service that beats, and the webhook that restarts it.  Both are threads here."""

from __future__ import annotations

import http.server
import threading
from types import TracebackType
from typing import Self

from medic.cli.client import Client
from medic.errors import MedicError

SERVICE = "web"
BEAT_EVERY_S = 0.5


class Heart:
    """Sends a heartbeat of `SERVICE` twice a second, while it is up."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._up = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo heart", daemon=True)
        self.stored = 0
        """Heartbeats that the API has stored."""

    def start(self) -> None:
        """Come up; it also ends the silence."""
        self._up.set()
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def fall_silent(self) -> None:
        self._up.clear()

    def end(self) -> None:
        self._ended.set()
        self._up.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._up.wait()
            if self._ended.is_set():
                return
            try:
                self._client.call("POST", "/v1/heartbeats", json={"service": SERVICE})
            except MedicError:
                pass  # as a job would: the next one may arrive
            else:
                self.stored += 1
            self._ended.wait(BEAT_EVERY_S)


class Receiver:
    """An HTTP server on loopback: ``POST /restart`` brings the service up again."""

    def __init__(self) -> None:
        self.heart: Heart | None = None
        self.calls: list[str] = []
        """The ``Idempotency-Key`` of each call."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(min(size, 65_536))
                known = self.path == "/restart"
                body = b'{"accepted": true}' if known else b"{}"
                self.send_response(202 if known else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if known:
                    receiver.restart(self.headers.get("Idempotency-Key", ""))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Nothing: the story is told by what the API says."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="demo receiver", daemon=True)

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, as the allow-list names it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def restart(self, key: str) -> None:
        self.calls.append(key)
        if self.heart is not None:
            self.heart.start()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def playbook(receiver: str) -> str:
    """The playbook of the demo: restart, let it settle, see that it beats again."""
    return f"""\
name: restart-{SERVICE}
description: Restart the service and verify that it beats again
trigger: {{service_pattern: "{SERVICE}", consecutive_failures: 1}}
steps:
  - name: restart
    type: webhook
    url: http://{receiver}/restart
    method: POST
    body: {{service: "${{SERVICE_NAME}}", alert: "${{ALERT_ID}}"}}
    success: {{status: [202], json: {{accepted: true}}}}
    timeout: 10s
    on_crash: retry
  - name: settle
    type: wait
    duration: 1s
  - name: verify
    type: condition
    check: heartbeat_received
    timeout: 20s
"""
