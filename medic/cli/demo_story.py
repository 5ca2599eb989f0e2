"""The story that `medic demo` tells.  A line is told when the API says so, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from medic.cli.client import Client
from medic.cli.demo_scene import SERVICE, Heart, Receiver, playbook
from medic.cli.execution import FINAL, changes
from medic.cli.output import cell
from medic.errors import MedicError, Throttled, Unavailable

LOOK_EVERY_S = 0.2
SCENE_S = 30.0
"""Seconds after which a scene that did not come is given up."""


class Teller(Protocol):
    """Who tells the story."""

    def tell(self, line: str, *, mark: str = "") -> None:
        """Something happened.  ``mark``: ``bad``, ``good`` or nothing."""

    def show(self, state: str) -> None:
        """How things stand right now; it may be overwritten."""


class NotSeen(MedicError):
    """The story went another way."""

    code = "not_seen"


class Story:
    """Heartbeats, silence, alert, playbook, recovery; each scene waits until the API shows it."""

    def __init__(
        self, client: Client, heart: Heart, receiver: Receiver, teller: Teller, *, scene_s: float = SCENE_S
    ) -> None:
        self._client = client
        self._heart = heart
        self._receiver = receiver
        self._teller = teller
        self._scene_s = scene_s

    def play(self) -> None:
        """Play all of it.

        :raises NotSeen: when a scene does not come; says which.
        """
        self._register()
        self._beat()
        self._fall_silent()
        self._heal(self._alert())

    def _register(self) -> None:
        body = {"name": SERVICE, "every": "2s", "grace": "1s"}
        self._client.call("POST", "/v1/services", json=body)
        self._teller.tell(f"The service {SERVICE} is watched: it beats every 2s, and may be 1s late.")
        self._client.call("PUT", f"/v1/playbooks/restart-{SERVICE}", text=playbook(self._receiver.address))
        self._teller.tell(f"The playbook restart-{SERVICE} is stored: webhook, wait, condition.")

    def _beat(self) -> None:
        self._heart.start()
        self._until(
            "a service that is up",
            lambda: self._service() if self._heart.stored >= 3 else None,
            lambda service: service["status"] == "up",
        )
        self._teller.tell(
            f"{SERVICE} beats: {self._heart.stored} heartbeats are stored, it is up.", mark="good"
        )

    def _fall_silent(self) -> None:
        self._heart.fall_silent()
        self._teller.tell(f"{SERVICE} falls silent.", mark="bad")

    def _alert(self) -> int:
        found = self._until(
            "an alert", lambda: self._first("/v1/alerts", service=SERVICE), lambda alert: alert["active"]
        )
        alert_id, why = int(found["id"]), cell(found["reasons"])
        self._teller.tell(f"Alert {alert_id} is open for {SERVICE}, reason: {why}.", mark="bad")
        return alert_id

    def _heal(self, alert_id: int) -> None:
        """The execution, the heartbeat's return and the end of the alert come in the order they like."""
        found = self._until(
            "an execution",
            lambda: self._first("/v1/executions", service=SERVICE),
            lambda execution: execution["alert"] == alert_id,
        )
        self._teller.tell(f"The playbook {found['playbook']} runs for alert {alert_id}.")
        told: dict[str, str] = {}
        seen: set[str] = set()

        def look() -> dict[str, Any]:
            execution: dict[str, Any] = self._client.get(f"/v1/executions/{found['id']}")
            for line in changes(execution, told):
                self._teller.tell(f"  {line}", mark="bad" if "failed" in line else "")
            if "beats" not in seen and self._receiver.calls and self._service()["status"] == "up":
                seen.add("beats")
                self._teller.tell(f"{SERVICE} beats again: the webhook restarted it.", mark="good")
            alert = self._client.get(f"/v1/alerts/{alert_id}")
            if "closed" not in seen and not alert["active"]:
                seen.add("closed")
                self._teller.tell(f"Alert {alert_id} is closed: {alert['resolution']}.", mark="good")
            return execution

        def is_over(execution: dict[str, Any]) -> bool:
            return execution["state"] in FINAL and (execution["state"] != "completed" or len(seen) == 2)

        ended = self._until("the recovery", look, is_over)
        if ended["state"] != "completed":
            raise NotSeen(f"The execution is {ended['state']}: {cell(ended['error'])}")
        if len(self._receiver.calls) != 1:
            raise NotSeen(f"The webhook was called {len(self._receiver.calls)} times, not once.")

    def _until(
        self, what: str, look: Callable[[], dict[str, Any] | None], is_it: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Look again and again until it is so.

        :raises NotSeen: when it is not so in time.
        """
        deadline = time.monotonic() + self._scene_s
        while True:
            try:
                found = look()
            except (Unavailable, Throttled):
                found = None
            if found is not None and is_it(found):
                return found
            if time.monotonic() > deadline:
                raise NotSeen(f"Waited {self._scene_s:.0f} s for {what}, in vain.")
            self._teller.show(f"waiting for {what}; {self._heart.stored} heartbeats so far")
            time.sleep(LOOK_EVERY_S)

    def _service(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get(f"/v1/services/{SERVICE}")
        return found

    def _first(self, path: str, **params: Any) -> dict[str, Any] | None:
        items = self._client.items(path, limit=1, **params).items
        return items[0] if items else None
