"""Starts programs, waits until they are ready, restarts those that exit, stops them in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from itertools import groupby

from medic.errors import Unavailable
from medic.local.process import Process
from medic.local.program import Program
from medic.local.stream import LogStream

_POLL = 0.02
_WATCH_EVERY = 0.3
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 30.0
_STEADY_AFTER = 60.0
"""Seconds; a program that ran this long starts its back-off anew."""
_LAST_WAIT = 10.0


class _Watched:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.delay = _FIRST_DELAY
        self.restart_at: float | None = None


class Supervisor:
    """Runs programs.  One thread calls it, the one that lives as long as the programs (see `Process`)."""

    def __init__(self, stream: LogStream) -> None:
        self.stream = stream
        self._watched: dict[str, _Watched] = {}

    def start(self, program: Program) -> Process:
        """Start a program, without waiting for it."""
        process = Process(program, self.stream)
        self._watched[program.name] = _Watched(process)
        return process

    def process(self, name: str) -> Process:
        """The running of the program of this name that is the newest."""
        return self._watched[name].process

    def await_ready(
        self, names: Iterable[str], *, within: float, on_ready: Callable[[str, float], None] | None = None
    ) -> None:
        """Wait until all of these are ready.

        :param within: seconds.
        :param on_ready: called once for each, with its name and the seconds that it took.
        :raises Unavailable: when one exits first, or is not ready in time; says which, and its last words.
        """
        waiting = dict.fromkeys(names)
        deadline = time.monotonic() + within
        while waiting:
            for name in list(waiting):
                process = self._watched[name].process
                code = process.exit_code()
                if code is not None:
                    raise Unavailable(f"{name} stopped while it started ({_how(code)}){_words(process)}")
                if process.is_ready():
                    del waiting[name]
                    if on_ready is not None:
                        on_ready(name, time.monotonic() - process.started_at)
            if waiting and time.monotonic() > deadline:
                slow = ", ".join(waiting)
                words = "".join(_words(self._watched[name].process) for name in waiting)
                raise Unavailable(f"not ready after {within:.0f} s: {slow}{words}")
            if waiting:
                time.sleep(_POLL)

    def watch(self, until: threading.Event) -> None:
        """Restart what exits, until the event is set."""
        while not until.wait(_WATCH_EVERY):
            self.tick()

    def tick(self) -> None:
        """One look at every program: plan a restart for one that exited, do the restarts that are due."""
        now = time.monotonic()
        for watched in self._watched.values():
            if watched.restart_at is not None:
                if now >= watched.restart_at:
                    watched.restart_at = None
                    watched.process = Process(watched.process.program, self.stream)
                continue
            code = watched.process.exit_code()
            if code is None:
                continue
            if now - watched.process.started_at > _STEADY_AFTER:
                watched.delay = _FIRST_DELAY
            name = watched.process.program.name
            self.stream.say(name, f"stopped ({_how(code)}); starting it again in {watched.delay:g} s")
            watched.restart_at = now + watched.delay
            watched.delay = min(watched.delay * 2, _LONGEST_DELAY)

    def stop(self, *, hurry: threading.Event | None = None) -> None:
        """Stop everything, stage by stage.

        :param hurry: once set, what still runs is killed without waiting.
        """
        running = [watched.process for watched in self._watched.values()]
        running.sort(key=lambda process: process.program.stage)
        for _, stage in groupby(running, key=lambda process: process.program.stage):
            self._stop_together(list(stage), hurry or threading.Event())
        self._watched.clear()

    def _stop_together(self, processes: list[Process], hurry: threading.Event) -> None:
        for process in processes:
            process.ask_to_stop()
        asked = time.monotonic()
        alive = [process for process in processes if process.exit_code() is None]
        while alive and not hurry.is_set():
            late = [p for p in alive if time.monotonic() - asked > p.program.stop_within]
            for process in late:
                self.stream.say(process.program.name, "did not stop in time; killing it")
            if late:
                _kill(late)
            alive = [process for process in alive if process.exit_code() is None]
            if alive:
                hurry.wait(_POLL)
        _kill(alive)


def _kill(processes: list[Process]) -> None:
    """Kill and see them gone; one that survives its kill signal gets the one that nothing survives."""
    for process in processes:
        process.kill()
    deadline = time.monotonic() + _LAST_WAIT
    while any(process.exit_code() is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.kill_hard()
            deadline = time.monotonic() + _LAST_WAIT
        time.sleep(_POLL)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _words(process: Process) -> str:
    lines = process.told()
    return "".join(f"\n    {process.program.name} | {line}" for line in lines)
