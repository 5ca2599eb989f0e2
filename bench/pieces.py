"""Where a heartbeat's time goes: `python -m bench.pieces`.

The API's WSGI application is called in this process, without a server or a network, by one thread and then
by as many as the API has.  Times are CPU times, so that other work on the machine does not show; those of the
profile carry the profiler's own cost, and are for comparing the pieces with one another.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from werkzeug.test import EnvironBuilder, run_wsgi_app

from bench import fill
from bench.stage import Effort, Stage

THREADS = 8


@click.command()
@click.option("--requests", default=2_000, show_default=True)
@click.option("--services", default=100, show_default=True)
@click.option("--lines", default=45, show_default=True, help="Of the profile.")
def main(requests: int, services: int, lines: int) -> None:
    """Measure the pieces of a heartbeat."""
    with tempfile.TemporaryDirectory(prefix="medic-bench-") as folder, ExitStack() as stack:
        stage = Stage(Path(folder), Effort(), stack)
        database = stage.database("pieces")
        fill.services(database, "s-", services, due=fill.FAR)
        os.environ.update(stage.environ(database))
        key = fill.key(stage, database)
        from medic_api.wsgi import app  # noqa: PLC0415 - it reads its environment when it is imported

        environs = [_environ(f"s-{number + 1}", key) for number in range(services)]
        send = _sender(app.wsgi_app, environs)
        _run(send, services)
        for threads in (1, THREADS):
            whole, own = _run(send, requests, threads=threads)
            click.echo(
                f"{threads} threads: {whole:.0f} µs of CPU a request, of which {own:.0f} µs in the request's thread "
                f"and {whole - own:.0f} µs in the committing one"
            )
        profile = cProfile.Profile(time.thread_time)
        profile.runcall(_run, send, requests)
        out = io.StringIO()
        pstats.Stats(profile, stream=out).strip_dirs().sort_stats("cumulative").print_stats(lines)
        click.echo(out.getvalue())


def _environ(service: str, key: str) -> dict[str, Any]:
    builder = EnvironBuilder(
        "/v1/heartbeats",
        method="POST",
        json={"service": service},
        headers=[("Authorization", f"Bearer {key}")],
    )
    return builder.get_environ()


def _sender(app: Callable[..., Iterable[bytes]], environs: list[dict[str, Any]]) -> Callable[[int], None]:
    bodies = [environ["wsgi.input"].getvalue() for environ in environs]

    def send(number: int) -> None:
        at = number % len(environs)
        environ = environs[at] | {"wsgi.input": io.BytesIO(bodies[at])}
        _, status, _ = run_wsgi_app(app, environ)
        if not status.startswith("2"):
            raise RuntimeError(f"answered {status}")

    return send


def _run(send: Callable[[int], None], requests: int, *, threads: int = 1) -> tuple[float, float]:
    """CPU of one request in µs: of the whole process, and of the threads that sent it."""
    spent: list[float] = []

    def work(first: int) -> None:
        began = time.thread_time()
        for number in range(first, requests, threads):
            send(number)
        spent.append(time.thread_time() - began)

    cpu = time.process_time()
    if threads == 1:
        work(0)
    else:
        running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return (time.process_time() - cpu) / requests * 1e6, sum(spent) / requests * 1e6


if __name__ == "__main__":
    main()
