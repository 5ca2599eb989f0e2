"""`medic demo`: the whole story in under a minute, on a stack of its own that leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from medic.cli.client import Client
from medic.cli.demo_scene import Heart, Receiver
from medic.cli.demo_story import NotSeen, Story
from medic.cli.up import StopRequests
from medic.client.address import Address, Key
from medic.errors import MedicError
from medic.local.stack import Stack
from medic.settings import Settings

_PARTS = ("api", "system", "steps", "beat")
"""No Flower: nobody would have the time to look at it."""

_STYLES = {"": "", "good": "green", "bad": "bold red"}


@click.command()
@click.option("--verbose", is_flag=True, help="Show the logs of all its parts too, on standard error.")
def demo(verbose: bool) -> None:
    """See a service fall silent and heal, in under a minute.

    Starts a Medic of its own in a temporary folder, and removes it.  Ends with 0 only if the API showed
    each scene: the alert, every step, the heartbeat's return, the alert closed.
    """
    requests = StopRequests()
    requests.install()
    folder = Path(tempfile.mkdtemp(prefix="medic-demo-"))
    with Screen() as screen, Receiver() as receiver:
        stack = Stack(
            folder,
            demo_environ(os.environ, receiver.address),
            ports={"api": 0, "flower": 0},
            durable=False,
            run=_PARTS,
            out=sys.stderr if verbose else None,
        )
        try:
            _play(stack, receiver, screen, requests)
        except KeyboardInterrupt:
            screen.tell("Interrupted.", mark="bad")
            raise SystemExit(130) from None
        except NotSeen as error:
            screen.tell(error.message, mark="bad")
            raise SystemExit(1) from None
        finally:
            screen.show("stopping, and removing what was made")
            stack.stop(hurry=requests.hurry)
            _remove(stack, folder)
        screen.tell("That was Medic. Run your own with `medic up`.")


def demo_environ(environ: Mapping[str, str], receiver: str) -> dict[str, str]:
    """The environment of the demo's stack: nothing of a Medic that is configured here, short ticks, and the
    one hole in the wall that its webhook needs.
    """
    names = {str(field.alias) for field in Settings.model_fields.values()}
    names |= {f"{name}_FILE" for name in names}
    clean = {name: value for name, value in environ.items() if name not in names}
    return clean | {
        "MEDIC_ALLOWED_WEBHOOK_HOSTS": receiver,
        "WORKER_INTERVAL_SECONDS": "1",
        "METRICS_PORT": "0",
        # Two who look and one who beats are all on one key.
        "RATE_LIMIT_MANAGEMENT_REQUESTS": "10000",
        "RATE_LIMIT_HEARTBEAT_REQUESTS": "10000",
    }


def _play(stack: Stack, receiver: Receiver, screen: Screen, requests: StopRequests) -> None:
    screen.show("starting PostgreSQL, Valkey, the API, workers and beat")
    stack.start(hurry=requests.hurry)
    assert stack.new_admin_key is not None, "a new folder has a new key"
    screen.tell(f"A Medic of its own runs at {stack.url}")
    address = Address(stack.url, Key(stack.new_admin_key))
    heart = receiver.heart = Heart(Client(address))
    try:
        Story(Client(address), heart, receiver, screen).play()
    finally:
        heart.end()


def _remove(stack: Stack, folder: Path) -> None:
    with suppress(MedicError, OSError):
        shutil.rmtree(stack.servers.folder.sockets(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


class Screen:
    """Lines with the seconds since the start; on a terminal also what is awaited, with a spinner."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console = Console(highlight=False)
        self._status: Status | None = None

    def tell(self, line: str, *, mark: str = "") -> None:
        seconds = f"{time.monotonic() - self._began:5.1f} s  "
        self._console.print(Text.assemble((seconds, "dim"), (line, _STYLES[mark])), soft_wrap=True)

    def show(self, state: str) -> None:
        if self._status is not None:
            self._status.update(Text(state))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
