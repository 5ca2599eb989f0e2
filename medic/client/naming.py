"""A name for a job that has none: made from its command, the same for each run of it.  Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_CODE_OPTIONS = {
    re.compile(r"(?:ba|da|z|k|a|fi|c|tc)?sh", re.ASCII): "c",
    re.compile(r"(?:python|pypy)[\d.]*", re.ASCII): "c",
    re.compile(r"(?:perl|ruby|node|lua)[\d.]*", re.ASCII): "e",
    re.compile(r"php[\d.]*", re.ASCII): "r",
}
"""Interpreters, and the letter of the option that takes code; it may stand behind others, as in ``sh -ec``."""
_SUFFIX = re.compile(r"\.(?:sh|bash|zsh|py|pl|rb|js|mjs|php|lua)$", re.ASCII)
_OTHER = re.compile(r"[^a-z0-9._-]+", re.ASCII)
_RESERVED = frozenset({"batch", "start", "complete", "fail", "log"})
_LONGEST = 128


def name_of(command: Sequence[str]) -> str:
    """The service that a command is, when none is named.

    The program's file name in small letters; behind an interpreter the script's, without its suffix, or the
    module's.  Code on the command line (``sh -c …``) is told apart by a short hash of the whole command.

    >>> name_of(["/usr/local/bin/Backup DB", "--full"])
    'backup-db'
    >>> name_of(["python3", "-u", "/opt/jobs/report.py"])
    'report'
    """
    program = command[0].rsplit("/", 1)[-1] if command else ""
    name = _SUFFIX.sub("", program)
    letter = next((letter for names, letter in _CODE_OPTIONS.items() if names.fullmatch(program)), None)
    if letter is not None:
        name = _script(command[1:], letter) or f"{program}-{_digest(command)}"
    name = _OTHER.sub("-", name.lower()).lstrip("._-").rstrip("-")[:_LONGEST]
    if not name or name in _RESERVED or name.isdigit():
        name = f"job-{name}" if name else f"job-{_digest(command)}"
    return name


def _script(arguments: Sequence[str], letter: str) -> str | None:
    for position, argument in enumerate(arguments):
        if not argument.startswith("-"):
            return _SUFFIX.sub("", argument.rsplit("/", 1)[-1])
        if argument == "-m" and position + 1 < len(arguments):
            return arguments[position + 1]
        if not argument.startswith("--") and argument.endswith(letter):
            return None
    return None


def _digest(command: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()[:8]
