"""A script's process tree, seen from its supervisor: who is in it, what it stores, how it ends.

The supervisor is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): whoever daemonises below it
becomes its child, so the tree is exactly what /proc shows under the supervisor.  Imported by the
launcher without the package, so standard library only.
"""
# os.path, since pathlib would double the launcher's start:
# ruff: noqa: PTH116, PTH123, PTH208

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

PER_ENTRY = 4096
"""Bytes that each file counts at the least, so that empty files are bounded too."""


def _parents() -> dict[int, int]:
    """Parent of each living process; zombies are left out, they have no children."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent, _ = file.read().rsplit(b")", 1)[1].split(None, 2)
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if state not in b"ZX":
            parents[int(name)] = int(parent)
    return parents


def descendants(root: int) -> set[int]:
    """Living processes below `root`; empty where there is no /proc."""
    try:
        parents = _parents()
    except OSError:
        return set()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    rest = [root]
    while rest:
        for pid in children.get(rest.pop(), ()):
            if pid not in found:
                found.add(pid)
                rest.append(pid)
    return found


def threads_of(uid: int) -> int:
    """How many threads a user has, as RLIMIT_NPROC counts them; 0 where there is no /proc."""
    count = 0
    try:
        names = os.listdir("/proc")
    except OSError:
        return 0
    for name in names:
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


def signal_quietly(pid: int, number: int, *, group: bool = False) -> None:
    """Send a signal to a process or group that may be gone."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def reap() -> tuple[dict[int, int], bool]:
    """Wait status of each child that has ended, without waiting; and whether any child is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


def end(root: int, group: int | None, *, patience: float = 10.0) -> dict[int, int]:
    """Kill everything below `root`, which is this process, and reap it.

    Nothing is reaped until nothing lives.  A zombie keeps its place under RLIMIT_NPROC, so a fork bomb
    finds fewer places with each pass and the passes end.

    :param group: a process group to kill first; the only way where there is no /proc.
    :param patience: seconds after which what is stuck in the kernel is left to die with its SIGKILL.
    :returns: wait status of each child reaped.
    """
    if group is not None:
        signal_quietly(group, signal.SIGKILL, group=True)
    give_up = time.monotonic() + patience
    previous: set[int] = set()
    pause = 0.001
    ended: dict[int, int] = {}
    while time.monotonic() < give_up:
        found = descendants(root)
        for pid in found:
            signal_quietly(pid, signal.SIGKILL)
        if not found:
            more, children_left = reap()
            ended |= more
            if not children_left:
                break
        if found == previous:  # all of them are on their way out; give them the processor
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        previous = found
    return ended


def _unlinked(pids: set[int]) -> Iterator[tuple[tuple[int, int], int]]:
    """Identity and bytes of files that are open but have no name: deleted ones, memfd."""
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if found.st_nlink == 0 and found.st_blocks:
                yield (found.st_dev, found.st_ino), found.st_blocks * 512


def stores_more_than(limit: int, folder: str, root: int) -> bool:
    """Whether the tree keeps more bytes than `limit`: in its folder, and in open files without a name.

    A folder that cannot be read counts as too much; otherwise one chmod would hide everything.
    """
    total = 0
    rest = [folder]
    while rest:
        try:
            with os.scandir(rest.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    total += max(found.st_blocks * 512, PER_ENTRY)
                    if total > limit:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        rest.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # moved meanwhile
        except OSError:
            return True
    return total + sum(dict(_unlinked(descendants(root))).values()) > limit
