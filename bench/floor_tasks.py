"""The engine's floor: a Celery application with Medic's settings, and tasks that do nothing."""

from __future__ import annotations

from typing import Any

from celery import Celery, chain

DONE = "bench.done"
"""A counter in the broker's database: chains that came to their end."""

app = Celery("bench", set_as_current=False)
app.config_from_object("celeryconfig")


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]  # Celery has no types
def noop() -> None:
    """One link."""


@app.task(name="bench.last", bind=True)  # type: ignore[untyped-decorator]
def last(self: Any) -> None:
    """The last link; it alone says that it ran, so that the end can be seen without a result backend."""
    with self.app.pool.acquire(block=True) as connection:
        connection.default_channel.client.incr(DONE)


def publish(links: int, *, queue: str) -> None:
    """One chain of this many tasks."""
    chain(
        *(noop.si().set(queue=queue) for _ in range(links - 1)), last.si().set(queue=queue), app=app
    ).apply_async()
