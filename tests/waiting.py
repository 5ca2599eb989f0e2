"""Waiting on a condition with a deadline; never on time alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, within: float = 20.0, every: float = 0.05) -> T:
    """The condition's first true value.

    :raises AssertionError: none came in time; says what the last one was.
    """
    pause = threading.Event()
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing came within {within:g} s; the last answer was {value!r}")
        pause.wait(every)
