"""What the playbooks act on: it remembers every effect, and behaves as the path asks."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tests.recorder import Answer, Received, Recorder, recording


@dataclass(frozen=True)
class Effect:
    """One request that arrived, in the order of ``at``."""

    at: int
    execution: UUID
    step: str
    token: int
    key: str


class World:
    """
    /ok       takes a moment, and works
    /flaky    refuses the first two requests of a key
    /broken   always refuses
    /ready/X  works from the third time on that X is asked for
    """

    def __init__(self, recorder: Recorder, *, slowest_s: float = 0.4) -> None:
        self.recorder = recorder
        self._slowest_s = slowest_s
        self._lock = threading.Lock()
        self._asked: dict[str, int] = defaultdict(int)
        self._pause = threading.Event()
        recorder.answer = self._answer

    @property
    def url(self) -> str:
        return self.recorder.url

    def effects(self) -> list[Effect]:
        """Everything that was sent with an idempotency key, in the order of its arrival."""
        found = []
        for at, request in enumerate(list(self.recorder.requests)):
            key = request.headers.get("idempotency-key")
            if key is not None:
                execution, _, step = key.partition(".")
                token = int(request.headers["medic-fencing-token"])
                found.append(Effect(at, UUID(execution), step, token, key))
        return found

    def knows(self, execution: UUID, step: str) -> bool:
        """Whether a step's effect arrived, as an operator would look it up."""
        return any(effect.key == f"{execution}.{step}" for effect in self.effects())

    def _answer(self, request: Received) -> Answer:
        kind = request.path.split("/")[1]
        about = request.headers.get("idempotency-key", request.path)
        with self._lock:
            self._asked[about] += 1
            times = self._asked[about]
        self._pause.wait(random.random() * self._slowest_s)
        if kind == "broken" or (kind == "flaky" and times <= 2):
            return 503, b'{"accepted": false}'
        if kind == "ready" and times < 3:
            return 404, b"{}"
        return 200, b'{"accepted": true}'


@contextlib.contextmanager
def world() -> Iterator[World]:
    with recording() as recorder:
        yield World(recorder)
