"""Runs a script through the launcher, from the worker's side: order, output, stop, result."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from medic.errors import Invalid, SandboxUnavailable
from medic.sandbox.cage import Order
from medic.sandbox.folders import RunFolder, default_base, run_folder
from medic.sandbox.launch import Launch
from medic.sandbox.model import Limits, SandboxStatus, ScriptResult

Interpreter = Literal["bash", "python"]
Mode = Literal["required", "best-effort"]

_LEAST_ABI = 1
_WEAKER_BELOW = {
    3: "Landlock ABI {abi}: a script may empty files of the worker's user (Linux 6.2 holds that)",
    6: "Landlock ABI {abi}: a script may signal processes of the worker's user (Linux 6.12 holds that)",
}


def run_script(
    *,
    interpreter: Interpreter,
    content: str,
    args: Sequence[str],
    env: Mapping[str, str],
    stdin: bytes,
    timeout: float,
    network: bool,
    mode: Mode,
    limits: Limits,
    should_stop: Callable[[], bool],
    before_start: Callable[[], None] | None = None,
    base: Path | None = None,
) -> ScriptResult:
    """Run one script to its end; when this returns or raises, none of its processes is left.

    bash runs as ``bash -e FILE ARGS``, python as ``python -u FILE ARGS`` with the interpreter below
    Medic's virtual environment, so without Medic's packages.  The script starts in an empty private folder, which is also its TMPDIR
    unless `env` names another.

    :param args: arguments; every user of the machine can read them in the process list, so never secrets.
    :param env: its whole environment, as `build_environment` makes it.
    :param stdin: what it reads from standard input.
    :param timeout: seconds until SIGTERM; SIGKILL comes ``limits.grace`` later.
    :param network: True opens IPv4 and IPv6 sockets; otherwise no socket can be made.
    :param mode: ``required`` refuses to run when a wall is missing; ``best-effort`` runs with what there is.
    :param should_stop: asked about five times a second, from the calling thread.
    :param before_start: called when the cage stands, right before the script's first instruction; what it
        raises is passed on, and then nothing has run.
    :param base: where private folders are made, `default_base` if None.
    :raises SandboxUnavailable: this machine cannot hold or start it; nothing has run.
    :raises Invalid: an argument or variable cannot be passed to a process; nothing has run.
    """
    _check_passable(content, args, env)
    if not (math.isfinite(timeout) and timeout > 0):
        raise Invalid.at("timeout", "must be more than 0 seconds")
    command, readable = _command(interpreter)
    with run_folder(base or default_base(), content.encode("utf-8", "surrogateescape")) as folder:
        order = _order(
            folder,
            argv=[*command, str(folder.script), *args],
            env={"TMPDIR": str(folder.work), **env},
            readable=readable,
            timeout=timeout,
            network=network,
            mode=mode,
            limits=limits,
        )
        with Launch(order, stdin=stdin, output=limits.output) as launch:
            _refuse(launch.prepare())
            if before_start is not None:
                before_start()
            if not should_stop():
                _refuse(launch.go(should_stop))
            return launch.result()


def probe(*, base: Path | None = None) -> SandboxStatus:
    """Put a process into the cage, run nothing in it, and say what held.  Some 50 ms; keep the answer.

    :raises SandboxUnavailable: when not even the launcher starts.
    """
    with run_folder(base or default_base(), b"") as folder:
        order = _order(
            folder, argv=["/bin/sh"], env={}, readable=[], timeout=1, network=False, mode="best-effort",
            limits=Limits(),
        )  # fmt: skip
        with Launch(order, stdin=b"", output=1) as launch:
            answer = launch.prepare()
            _refuse(answer)
    facts = answer["ready"]
    abi, own_uid = int(facts["landlock_abi"]), bool(facts["own_uid"])
    weaker = (
        [] if own_uid else [text.format(abi=abi) for least, text in _WEAKER_BELOW.items() if 0 < abi < least]
    )
    return SandboxStatus(
        landlock_abi=abi,
        seccomp=bool(facts["seccomp"]),
        reasons=(*facts["missing"], *weaker),
        ok=abi >= _LEAST_ABI and bool(facts["seccomp"]) and not facts["missing"],
        own_uid=own_uid,
    )


def _order(
    folder: RunFolder,
    *,
    argv: list[str],
    env: dict[str, str],
    readable: list[str],
    timeout: float,
    network: bool,
    mode: Mode,
    limits: Limits,
) -> Order:
    return Order(
        argv=argv,
        env=env,
        folder=str(folder.path),
        script=str(folder.script),
        work=str(folder.work),
        readable=readable,
        network=network,
        required=mode == "required",
        timeout=timeout,
        grace=limits.grace,
        memory=limits.memory,
        file_size=limits.file_size,
        disk=limits.disk,
        open_files=limits.open_files,
        processes=limits.processes,
    )


def _command(interpreter: Interpreter) -> tuple[list[str], list[str]]:
    """The interpreter's command, and the paths that it needs to read."""
    if interpreter == "python":
        # In a virtual environment this is the Python below it: scripts do not see Medic's packages.
        own = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
        parts = (Path(prefix, part) for prefix in {sys.base_prefix, sys.base_exec_prefix}
                 for part in ("bin", "lib", "lib64", "share", "ssl"))  # fmt: skip
        return [own, "-u"], [own, *(str(part) for part in parts if part.is_dir())]
    found = shutil.which("bash") or shutil.which("bash", path="/bin:/usr/bin:/usr/local/bin")
    if found is None:
        raise SandboxUnavailable("bash is not installed on this worker.")
    own = os.path.realpath(found)
    return [own, "-e"], [own]


def _check_passable(content: str, args: Sequence[str], env: Mapping[str, str]) -> None:
    texts = {"content": content.replace("\0", "")}  # a NUL in the text is the interpreter's business
    texts |= {f"args.{number}": arg for number, arg in enumerate(args)}
    for name, value in env.items():
        if not name or "=" in name:
            raise Invalid.at(f"env.{name}", "is not the name of a variable")
        texts[f"env.{name}"] = name + value
    for path, text in texts.items():
        try:
            passable = b"\0" not in text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            passable = False
        if not passable:
            raise Invalid.at(path, "has a NUL or half a character in it, which no process can be given")


def _refuse(answer: dict[str, object]) -> None:
    """:raises SandboxUnavailable, Invalid: when the launcher refused."""
    reason = answer.get("refused")
    if reason is None:
        return
    if answer.get("errno") == errno.E2BIG:
        raise Invalid("The script's arguments and variables are too long together; pass data on stdin.")
    raise SandboxUnavailable(f"This worker cannot hold a script safely: {reason}.")
