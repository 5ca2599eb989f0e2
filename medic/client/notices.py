"""What is worth a word to the person who runs the program, and how it is said.

A cron daemon mails every line on stderr: an outage of Medic must not become a mail from every job, while a
wrong key or a service that does not exist has to be seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

STDERR = 2


class Notice(Enum):
    """Kinds of notices; each is said once."""

    AWAY = "away"
    """Medic cannot be reached; nothing is lost, and the next run sends it."""
    LONG_AWAY = "long away"
    """The same, but signals wait for more than an hour: it will not pass by itself."""
    BACK = "back"
    NO_SERVER = "no server"
    NOT_ALLOWED = "not allowed"
    REJECTED = "rejected"
    DROPPED = "dropped"
    NO_SPOOL = "no spool"
    """Signals can be neither sent nor kept."""


Tell = Callable[[Notice, str], None]


class StderrNotices:
    """For `medic run`: a line on stderr; a mere absence of Medic is told to a terminal only."""

    def __init__(self) -> None:
        self._said: set[Notice] = set()
        self.is_terminal = os.isatty(STDERR)

    def __call__(self, notice: Notice, text: str) -> None:
        if notice in self._said or (notice in {Notice.AWAY, Notice.BACK} and not self.is_terminal):
            return
        self._said.add(notice)
        say(text)


class LogNotices:
    """For programs: a WARNING of the logger ``medic.client``, once in each outage."""

    def __init__(self) -> None:
        self._said: set[Notice] = set()

    def __call__(self, notice: Notice, text: str) -> None:
        is_news = bool(self._said) if notice is Notice.BACK else notice not in self._said
        if not is_news:
            return
        import logging  # noqa: PLC0415 - a tenth of what this package costs, and mostly not needed

        if notice is Notice.BACK:
            self._said.clear()
        else:
            self._said.add(notice)
        level = logging.INFO if notice is Notice.BACK else logging.WARNING
        logging.getLogger("medic.client").log(level, "%s", text)


def say(text: str) -> None:
    """One line on stderr, past Python's buffers: a thread that holds one at the end would end us badly."""
    with suppress(OSError):
        os.write(STDERR, f"medic: {text}\n".encode("utf-8", "replace"))
