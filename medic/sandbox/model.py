"""What a script may use, what became of it, and what this machine can hold."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one script.  Sizes in bytes.

    ``memory`` is address space per process (RLIMIT_AS); runtimes that reserve much, as Java, Go or Node,
    need more.  ``disk`` bounds what the whole script keeps in its folder and in open deleted files; it is
    looked at four times a second, so a fast writer may overstep it for a moment.  ``processes`` comes on
    top of what the user already runs; it is a backstop, the kernel counts per user, not per script.
    ``output`` bounds stdout and stderr each; what is more is read and dropped.  ``grace`` is the seconds
    between SIGTERM and SIGKILL.
    """

    memory: int = 512 * _MIB
    file_size: int = 64 * _MIB
    disk: int = 256 * _MIB
    open_files: int = 256
    processes: int = 4096
    output: int = 256 * 1024
    grace: float = 2.0

    def __post_init__(self) -> None:
        sizes = (self.memory, self.file_size, self.disk, self.open_files, self.processes, self.output)
        if min(sizes) < 1 or self.grace < 0:
            raise ValueError("limits are positive")


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """What became of a script; its processes are gone.

    ``exit_code`` or ``signal`` is that of the interpreter.  Both are None when it was stopped before it
    started, or when its supervisor was killed and nobody knows (``lost``: it may have run or not).
    ``duration`` is in seconds, from start until the whole tree had ended.
    """

    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    timed_out: bool
    stopped: bool
    duration: float
    disk_exceeded: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What this machine's kernel offers.

    ``ok`` is whether mode ``required`` runs scripts here; ``reasons`` names what is missing, also what
    only weakens the cage.  ``own_uid``: scripts run under a user id of their own (the worker is root).
    """

    landlock_abi: int
    seccomp: bool
    reasons: tuple[str, ...]
    ok: bool
    own_uid: bool = False
