"""Runs one script in a cage and ends its whole process tree.  Its own process: ``python -I -S launcher.py``.

    worker ── guard ── supervisor ── script ── whatever it starts

The worker is not a subreaper and never meets a process of the script, so its other children are safe.
The supervisor keeps timeout and disk limit, and kills and reaps the tree at the end.  The guard waits
for the supervisor and does the same if that was killed.  Every link of the chain ends when the one
before it does: the worker's death closes the control pipe and sends SIGTERM to the guard, the guard's
death sends SIGTERM to the supervisor, the supervisor's death sends SIGKILL to the script (which cannot
decline it) and leaves the rest to the guard.  Only when guard and supervisor get SIGKILL in the same
moment do processes that the script has started itself stay; without a PID namespace or a control group
the kernel has no leash for those.

Arguments: five file descriptors, control report stdin stdout stderr.  On control come eight bytes of
length, an `Order` as JSON, and later ``G`` for go; its end means stop.  On report leave lines of JSON:
``{"ready": …}``, ``{"refused": reason, "errno": n}``, ``{"end": …}``.  Standard library only.
"""
# os.path, since pathlib would double the start:
# ruff: noqa: PTH100, PTH120, PTH123

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import NamedTuple, NoReturn

TYPE_CHECKING = False
if TYPE_CHECKING or __name__ != "__main__":
    from medic.sandbox import cage, tree
else:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import cage
    import tree

GO_WITHIN = 60.0
"""Seconds between ready and go; after that the supervisor takes the worker for stuck."""
_WATCH_EVERY = 0.25
_SLACK = 30.0


class Pipes(NamedTuple):
    control: int
    report: int
    stdin: int
    stdout: int
    stderr: int


class Events:
    """What a process without threads waits for: children that end, SIGTERM, the control pipe."""

    def __init__(self, control: int | None) -> None:
        self.stop = False
        self.go = False
        self._control = control
        self._wake, waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGTERM, self._terminated)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        if control is not None:
            self._poll.register(control, select.POLLIN)

    def _terminated(self, *_: object) -> None:
        self.stop = True

    def wait(self, seconds: float) -> None:
        for fd, _ in self._poll.poll(max(0, int(seconds * 1000) + 1)):
            with contextlib.suppress(BlockingIOError):
                said = os.read(fd, 4096)
                if fd == self._control:
                    self.go = self.go or said == b"G"
                    if not said:
                        self.stop = True
                        self._poll.unregister(fd)


def say(report: int, **message: object) -> None:
    pass_on(report, json.dumps(message).encode() + b"\n")


def pass_on(pipe: int, line: bytes) -> None:
    """Write a line to somebody who may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, line)


def read_order(control: int) -> cage.Order | None:
    """The order, or None when the worker ended before it had told it."""
    file = os.fdopen(control, "rb", buffering=0, closefd=False)
    wanted, body = 8, b""
    while len(body) < wanted:
        part = file.read(wanted - len(body))
        if not part:
            return None
        body += part
        if wanted == 8 and len(body) == 8:
            wanted += int.from_bytes(body, "big")
    return cage.Order(**json.loads(body[8:]))


def guard(order: cage.Order, pipes: Pipes) -> None:
    """Wait for the supervisor; do its work of ending the tree when it could not."""
    with contextlib.suppress(cage.Refused):
        cage.adopt_orphans()
        cage.die_with_parent(signal.SIGTERM)
    me = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        supervise(order, pipes, me)
        return
    events = Events(None)
    for fd in (pipes.stdin, pipes.stdout, pipes.stderr):
        os.close(fd)
    deadline = time.monotonic() + GO_WITHIN + order.timeout + order.grace + _SLACK
    told = False
    while supervisor not in tree.reap()[0]:
        late = time.monotonic() >= deadline
        if late:
            tree.signal_quietly(supervisor, signal.SIGKILL)
        elif events.stop and not told:
            tree.signal_quietly(supervisor, signal.SIGTERM)
            told = True
        events.wait(1.0)
    tree.end(me, None)


def supervise(order: cage.Order, pipes: Pipes, parent: int) -> None:
    """Start the caged script, keep its limits, end its tree, report."""
    events = Events(pipes.control)
    with contextlib.suppress(cage.Refused):
        cage.adopt_orphans()
        cage.die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        return
    status, status_writer = os.pipe()
    go, go_writer = os.pipe()
    me = os.getpid()
    leader = os.fork()
    if leader == 0:
        become_script(order, pipes, status_writer, go, me)
    for fd in (status_writer, go, pipes.stdin, pipes.stdout, pipes.stderr):
        os.close(fd)
    answer = os.read(status, 65_536)
    if not answer.startswith(b'{"ready"'):
        tree.end(me, leader)
        pass_on(pipes.report, answer or b'{"refused": "the script\'s process died"}\n')
        return
    pass_on(pipes.report, answer)
    deadline = time.monotonic() + GO_WITHIN
    while not (events.go or events.stop) and time.monotonic() < deadline:
        events.wait(deadline - time.monotonic())
    if events.stop or not events.go:
        tree.end(me, leader)
        return
    started = time.monotonic()
    pass_on(go_writer, b"G")
    failure = os.read(status, 65_536)  # empty once exec has closed the other end
    if failure:
        tree.end(me, leader)
        pass_on(pipes.report, failure)
        return
    watch(order, pipes.report, events, leader, started)


def watch(order: cage.Order, report: int, events: Events, leader: int, started: float) -> None:
    """Until the script ends, is stopped, or oversteps; then end the tree and report."""
    me = os.getpid()
    deadline = started + order.timeout
    ended: dict[int, int] = {}
    timed_out = too_much = False
    next_look = started
    while leader not in ended:
        now = time.monotonic()
        timed_out = now >= deadline
        if now >= next_look:
            too_much = tree.stores_more_than(order.disk, order.work, me)
            next_look = now + _WATCH_EVERY
        if events.stop or timed_out or too_much:
            break
        events.wait(min(next_look, deadline) - now)
        ended |= tree.reap()[0]
    if leader not in ended and not too_much:
        tree.signal_quietly(leader, signal.SIGTERM, group=True)
        patience = time.monotonic() + order.grace
        while leader not in ended and time.monotonic() < patience:
            events.wait(patience - time.monotonic())
            ended |= tree.reap()[0]
    ended |= tree.end(me, leader)
    code = os.waitstatus_to_exitcode(ended[leader]) if leader in ended else None
    say(
        report,
        end={
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "timed_out": timed_out,
            "stopped": events.stop and not timed_out,
            "disk_exceeded": too_much,
            "duration": time.monotonic() - started,
        },
    )


def become_script(order: cage.Order, pipes: Pipes, status: int, go: int, parent: int) -> NoReturn:
    """Put up every wall, say so, wait for go, and become the interpreter."""
    try:
        os.setsid()
        for fd, target in ((pipes.stdin, 0), (pipes.stdout, 1), (pipes.stderr, 2)):
            os.dup2(fd, target)
        last = 3
        for fd in sorted({status, go}):
            os.closerange(last, fd)
            last = fd + 1
        os.closerange(last, os.sysconf("SC_OPEN_MAX"))
        say(status, ready=enter_cage(order, parent))
        if os.read(go, 1) != b"G":
            os._exit(0)
        os.execve(order.argv[0], order.argv, order.env)  # noqa: S606  -- the interpreter is ours to choose
    except cage.Refused as error:
        say(status, refused=str(error))
    except OSError as error:
        say(status, refused=f"start: {error.strerror}", errno=error.errno)
    except BaseException as error:  # noqa: BLE001  -- nothing may run on into the supervisor's code
        say(status, refused=f"start: {type(error).__name__}")
    os._exit(126)


def enter_cage(order: cage.Order, parent: int) -> dict[str, object]:
    """Put the walls up in their order; what is missing is told, and refused where all are required."""
    os.chdir(order.work)
    os.umask(0o077)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # short of memory, the kernel takes the script before the worker
    uid = cage.lonely_uid(order, parent)
    missing: list[str] = []
    abi = 0
    try:
        cage.limit_resources(order, os.getuid() if uid is None else uid)
        if uid is not None:
            cage.become(uid, order)
    except cage.Refused as error:
        missing.append(str(error))
    try:
        cage.drop_privileges()
        cage.die_with_parent(signal.SIGKILL)  # after the change of user, which clears it
        if os.getppid() != parent:
            os._exit(126)
        abi = cage.restrict_files(order)
    except cage.Refused as error:
        missing.append(str(error))
    reset_signals()
    filtered = False
    try:
        cage.filter_calls(network=order.network)
        filtered = True
    except cage.Refused as error:
        missing.append(str(error))
    if missing and order.required:
        raise cage.Refused("; ".join(missing))
    return {"landlock_abi": abi, "seccomp": filtered, "missing": missing, "own_uid": uid is not None}


def reset_signals() -> None:
    """Whatever the worker ignored or blocked, the script starts afresh."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    pipes = Pipes(*map(int, sys.argv[1:]))
    for fd in pipes:
        os.set_inheritable(fd, False)
    order = read_order(pipes.control)
    if order is not None:
        guard(order, pipes)
    os._exit(0)  # nothing to tidy, and the worker waits


if __name__ == "__main__":
    main()
