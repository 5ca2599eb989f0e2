"""One log stream for all components: ``component | line``, in colour on a terminal."""

from __future__ import annotations

import threading
import zlib
from contextlib import suppress
from typing import TextIO

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92)
_WIDTH = 9


class LogStream:
    """Lines of many processes on one text stream, whole lines only.  Safe to use from threads.

    A stream that is gone (a closed terminal) ends no process: its lines are dropped.
    """

    def __init__(self, out: TextIO | None) -> None:
        """:param out: where the lines go; ``None`` drops them."""
        self._out = out
        self._colour = out is not None and out.isatty()
        self._lock = threading.Lock()

    def say(self, component: str, line: str) -> None:
        if self._out is None:
            return
        label = f"{component:<{_WIDTH}} |"
        if self._colour:
            label = f"\x1b[{_COLOURS[zlib.crc32(component.encode()) % len(_COLOURS)]}m{label}\x1b[0m"
        with self._lock, suppress(OSError, ValueError):
            self._out.write(f"{label} {line}\n")
            self._out.flush()
