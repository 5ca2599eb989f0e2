"""Start one program so that it cannot outlive who started it.

A script of its own, run by path with ``python -I -S`` and never imported: what it does between fork and
exec is not safe in a process that has threads, and a `preexec_fn` runs exactly there.

    launch.py PARENT SIGNAL IDENTITY FOLDER -- PROGRAM ARGUMENT...

``PARENT``    process id that must still be our parent; 0 ties the program to nobody.
``SIGNAL``    number of the signal that the kernel sends the program when PARENT's thread ends (Linux).
``IDENTITY``  ``same``; ``map:UID:GID``: a user namespace in which we appear as UID; ``user:UID:GID``:
              become that user for good; ``reach:UID:GID``: the same, but keep the right to pass through
              folders that are closed to it (CAP_DAC_OVERRIDE).
``FOLDER``    a folder in which the program must be able to write, or ``-``.

Exit codes of its own: 127 the program cannot be started, 77 the identity or the folder is out of reach.
"""

from __future__ import annotations

import ctypes
import os
import sys

UNREACHABLE = 77
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CLONE_NEWUSER = 0x1000_0000
LINUX_CAPABILITY_VERSION_3 = 0x2008_0522


def main(arguments: list[str]) -> None:
    parent, signal_number, identity, folder = arguments[:4]
    program = arguments[5:]
    try:
        take_on(identity)
        if folder != "-":
            check_writable(folder)
    except OSError as error:
        sys.stderr.write(f"cannot run as {identity}: {error.strerror}\n")
        os._exit(UNREACHABLE)
    # Only now: a change of identity clears the parent-death signal (prctl(2)).
    tie(int(parent), int(signal_number))
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error.strerror}\n")
        os._exit(127)


def take_on(identity: str) -> None:
    if identity == "same":
        return
    kind, uid_text, gid_text = identity.split(":")
    uid, gid = int(uid_text), int(gid_text)
    if kind == "map":
        outer_uid, outer_gid = os.geteuid(), os.getegid()
        call("unshare", CLONE_NEWUSER)
        write("/proc/self/setgroups", "deny")  # else the kernel refuses gid_map (user_namespaces(7))
        write("/proc/self/gid_map", f"{gid} {outer_gid} 1")
        write("/proc/self/uid_map", f"{uid} {outer_uid} 1")
        return
    if kind == "reach":
        call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if kind == "reach":
        keep_reach()


def keep_reach() -> None:
    """Drop every capability but CAP_DAC_OVERRIDE, and let that one pass the exec (capabilities(7))."""
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable of the lower 32 capabilities, then of the upper ones
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    call("capset", header, data)
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


def check_writable(folder: str) -> None:
    probe = f"{folder}/.probe-{os.getpid()}"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.unlink(probe)  # noqa: PTH108 - pathlib would double the start time


def tie(parent: int, signal_number: int) -> None:
    if parent == 0:
        return
    if sys.platform == "linux":
        call("prctl", PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was armed
        os._exit(0)


def call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def write(path: str, text: str) -> None:
    # Plain calls: in the new namespace the standard library itself may be out of reach.
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


if __name__ == "__main__":
    main(sys.argv[1:])
