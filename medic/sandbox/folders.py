"""The private folder of a running script, and its removal whatever it holds.

A folder is held by an exclusive flock(2) on itself, which the kernel drops when its worker dies; so
leftovers are told from living ones without pids or clocks.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medic.errors import SandboxUnavailable

_PREFIX = "run-"
_HOLDER = ".removing-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``script`` is readable to the script, ``work`` is its working folder; both die with ``path``."""

    path: Path
    script: Path
    work: Path


def default_base() -> Path:
    """Where scripts run unless told otherwise: a folder of this user in the temporary one."""
    return Path(tempfile.gettempdir()) / f"medic-scripts-{os.geteuid()}"


@contextmanager
def run_folder(base: Path, content: bytes) -> Iterator[RunFolder]:
    """A fresh private folder with the script in it, removed at the end.

    :raises SandboxUnavailable: when `base` is not ours alone, or cannot be written.
    """
    try:
        with _locked(_secure(base), fcntl.LOCK_SH):
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:
        raise SandboxUnavailable(f"The folder of scripts cannot be used: {error.strerror}") from None
    try:
        folder = RunFolder(path, path / "script", path / "work")
        try:
            folder.work.mkdir(mode=0o700)
            folder.script.touch(mode=0o600)
            folder.script.write_bytes(content)
        except OSError as error:
            raise SandboxUnavailable(f"The script cannot be written: {error.strerror}") from None
        yield folder
    finally:
        with suppress(OSError):  # what resists is tried again by remove_leftovers
            remove(path)
        os.close(held)


def remove_leftovers(base: Path) -> int:
    """Remove the folders of workers that died; for a worker's start.

    :returns: how many were removed.
    """
    if not base.is_dir():
        return 0
    removed = 0
    with _locked(_secure(base), fcntl.LOCK_EX):
        for path in sorted(base.glob(f"{_PREFIX}*")):
            with suppress(OSError):
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
                    removed += 1
                finally:
                    os.close(held)
    return removed


def remove(path: Path) -> None:
    """Remove a folder that no process uses any more.

    Closed folders are opened first, and nested ones are moved up before they are entered, so depth costs
    neither recursion nor path length.
    """
    path.chmod(0o700)
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        numbers = itertools.count()
        while names := os.listdir(root):  # noqa: PTH208  -- a descriptor, not a path
            for name in names:
                _remove_entry(root, name, numbers)
    finally:
        os.close(root)
    path.rmdir()


def _remove_entry(root: int, name: str, numbers: Iterator[int]) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=root)
        return
    os.chmod(name, 0o700, dir_fd=root)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        for inner in os.listdir(folder):  # noqa: PTH208  -- a descriptor, not a path
            if stat.S_ISDIR(os.stat(inner, dir_fd=folder, follow_symlinks=False).st_mode):
                os.chmod(inner, 0o700, dir_fd=folder)  # moving a folder writes its own ".."
                os.rename(inner, _free_name(root, numbers), src_dir_fd=folder, dst_dir_fd=root)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=root)


def _free_name(root: int, numbers: Iterator[int]) -> str:
    while True:
        name = f"{_HOLDER}{next(numbers)}"
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name


def _secure(base: Path) -> Path:
    """Make `base`, or see that it is ours: in a shared temporary folder anybody may have been first."""
    base.mkdir(mode=0o711, parents=True, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SandboxUnavailable(
            f"{base}: must be a folder that belongs to the worker's user and that nobody else may write"
        )
    return base


@contextmanager
def _locked(base: Path, kind: int) -> Iterator[None]:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)
