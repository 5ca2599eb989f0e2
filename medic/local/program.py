"""What is to run: a program, how it says that it is ready, and how it is stopped."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One program under the supervisor.

    :ivar argv: absolute path of the program, then its arguments; never a secret.
    :ivar stage: programs stop stage by stage, the lowest first; those of one stage stop together.
    :ivar stop_signal: asks it to stop; it has ``stop_within`` seconds, then ``kill_signal`` follows.
    :ivar orphan_signal: what the kernel sends it when we die without stopping it (Linux).
    :ivar group_kill: whether the processes that it left in its group are killed when it has gone.
    :ivar identity: as in `medic.local.launch`.
    :ivar log: file that takes its output; without one the lines go to the log stream.
    :ivar announces: a line of its output that means ready.
    :ivar probe: answers true when it is ready; with neither it is ready once it has been started.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stage: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 10.0
    kill_signal: signal.Signals = signal.SIGKILL
    orphan_signal: signal.Signals = signal.SIGTERM
    group_kill: bool = True
    identity: str = "same"
    log: Path | None = None
    announces: re.Pattern[str] | None = None
    probe: Callable[[], bool] | None = None
