"""`medic up`: everything on this machine, in one terminal."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import click

from medic.local.stack import Stack


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=True, path_type=Path),
    default=Path(".medic"),
    show_default=True,
    help="Where the data and the keys live.",
)
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port of the API, in place of PORT; 0 picks one."
)
@click.option(
    "--flower-port",
    type=click.IntRange(0, 65_535),
    help="Port of Flower, in place of MEDIC_FLOWER_PORT; 0 picks one.",
)
def up(data_dir: Path, port: int | None, flower_port: int | None) -> None:
    """Run all of Medic here: PostgreSQL, Valkey, API, workers, beat and Flower."""
    ports = {name: value for name, value in (("api", port), ("flower", flower_port)) if value is not None}
    began = time.monotonic()
    requests = StopRequests()
    stack = Stack(data_dir, os.environ, ports=ports, out=sys.stdout)
    requests.install()
    try:
        stack.start(hurry=requests.hurry)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    click.echo(greeting(stack, seconds=time.monotonic() - began))
    requests.started = True
    stack.watch(requests.stop)
    click.echo("Stopping: workers finish what runs. Once more stops at once.", err=True)
    stack.stop(hurry=requests.hurry)


class StopRequests:
    """What SIGINT, SIGTERM and SIGHUP mean: give up the start, then stop in order, then stop at once."""

    def __init__(self) -> None:
        self.started = False
        self.stop = threading.Event()
        self.hurry = threading.Event()

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            self.hurry.set()
            return
        self.stop.set()
        if not self.started:
            raise KeyboardInterrupt


def greeting(stack: Stack, *, seconds: float) -> str:
    """What is shown once everything is ready."""
    key_file = stack.admin_key_file
    lines = [
        "",
        f"Medic is ready ({seconds:.1f} s).",
        f"  Open     {stack.url}/",
        f"  Tasks    {stack.flower_url}/",
        f"  Data     {stack.servers.folder.path}",
    ]
    if stack.new_admin_key is not None:
        lines += [f"  Key      {stack.new_admin_key}", f"           shown once; it is kept in {key_file}"]
    lines += [
        "  Send a first heartbeat:",
        f"    {first_heartbeat(stack.url, key_file)}",
        "  Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)


def first_heartbeat(url: str, key_file: Path) -> str:
    """A shell command that sends a heartbeat; it names the key's file, not the key."""
    key = f'"Authorization: Bearer $(cat {shlex.quote(str(key_file))})"'
    body = "-H 'Content-Type: application/json' -d '{\"service\":\"demo\"}'"
    # create: the first heartbeat of a stranger should not meet a 404.
    where = shlex.quote(f"{url}/v1/heartbeats?create=1&every=5m&grace=1m")
    return f"curl -X POST {where} -H {key} {body}"
