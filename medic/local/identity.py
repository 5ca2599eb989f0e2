"""Who runs PostgreSQL.  It refuses root, and root's folders are closed to everybody else.

As root, in this order, the first that reaches both the program and the data:

1. *map*: a user namespace in which root appears as another user.  Files stay root's, nothing is opened.
2. *user*: the user who owns the data, or the folder around it (``sudo medic up`` in a home), then an
   account made for PostgreSQL, then ``nobody``.
3. *reach*: the same users, with the one right to pass through closed folders (a container without user
   namespaces whose data is under ``/root``).

As an ordinary user: that user.  One without an entry among the accounts (a container with any user id)
is mapped to ``nobody``, since initdb insists on a name.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medic.errors import Misconfigured
from medic.local.process import launch_command


@dataclass(frozen=True, slots=True)
class Identity:
    """A way to run a program; ``owner`` is whom its files belong to, seen from outside."""

    kind: Literal["same", "map", "user", "reach"]
    uid: int
    gid: int

    def __str__(self) -> str:
        return "same" if self.kind == "same" else f"{self.kind}:{self.uid}:{self.gid}"

    @property
    def owner(self) -> tuple[int, int]:
        return (self.uid, self.gid) if self.kind in {"user", "reach"} else (os.geteuid(), os.getegid())


SAME = Identity("same", os.geteuid(), os.getegid())


def identity_for(program: Path, data: Path) -> Identity:
    """Find who can run the program and write in the folder, and make the folder theirs.

    :param data: the folder of the program's data; it exists.
    :raises Misconfigured: when nobody can, with the way on.
    """
    if os.geteuid() != 0:
        if data.stat().st_uid != os.geteuid():
            raise Misconfigured(
                f"{data} belongs to another user (id {data.stat().st_uid}): start as that user, "
                "make it yours with chown -R, or choose another folder with --data-dir."
            )
        if _known(os.geteuid()):
            return SAME
    before = data.stat()
    refusal = "no candidate"
    for candidate in _candidates(data):
        if candidate.kind != "map" and os.geteuid() == 0:
            data.parent.chmod(data.parent.stat().st_mode | 0o011)  # to pass through, not to list
        os.chown(data, *candidate.owner)
        refusal = _refusal(candidate, program, data)
        if not refusal:
            if before.st_uid != candidate.owner[0]:
                give(data, candidate)
            return candidate
    os.chown(data, before.st_uid, before.st_gid)
    if os.geteuid() != 0:
        raise Misconfigured(
            f"PostgreSQL needs a user with a name, and id {os.geteuid()} has none ({refusal}): add it to /etc/passwd, "
            "or set MEDIC_DATABASE_URL to a server of your own."
        )
    raise Misconfigured(
        f"PostgreSQL does not run as root, and nobody else can run {program} on {data} ({refusal}): start "
        "as an ordinary user, or set MEDIC_DATABASE_URL to a server of your own."
    )


def give(folder: Path, identity: Identity) -> None:
    """Make a folder and all in it the identity's own."""
    uid, gid = identity.owner
    os.chown(folder, uid, gid)
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            os.chown(Path(root, name), uid, gid, follow_symlinks=False)


def _candidates(data: Path) -> Iterator[Identity]:
    nobody = _account("nobody")
    mapped = [Identity("map", nobody.pw_uid, nobody.pw_gid)] if sys.platform == "linux" and nobody else []
    if os.geteuid() != 0:
        yield from mapped
        return
    owner = data.stat().st_uid
    if owner == 0:
        yield from mapped
    around = (owner, data.parent.stat().st_uid, data.parent.parent.stat().st_uid)
    users = [pwd.getpwuid(uid) for uid in around if uid != 0 and _known(uid)]
    users += [entry for name in ("postgres", "_postgres") if (entry := _account(name))]
    users += [nobody] if nobody else []
    numbers = list(dict.fromkeys((user.pw_uid, user.pw_gid) for user in users))
    yield from (Identity("user", uid, gid) for uid, gid in numbers)
    if sys.platform == "linux":
        yield from (Identity("reach", uid, gid) for uid, gid in numbers)
    if owner != 0:
        yield from mapped


def _refusal(identity: Identity, program: Path, data: Path) -> str:
    """Why this identity cannot run the program on the data; empty when it can."""
    command = launch_command((str(program), "--version"), identity=str(identity), folder=data)
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit {done.returncode}"


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
