"""The keys that Medic makes for itself on its first local start, one file of mode 0600 for each.

In production they are given; under `medic up` they live in the data folder, and the processes read them
through the variables' ``_FILE`` form, so that no process carries a key in its environment.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from medic.errors import Misconfigured

KEYS = ("MEDIC_SECRETS_KEY", "MEDIC_API_KEY_PEPPER", "MEDIC_AUDIT_KEY")
_SIZE = 32


def key_files(folder: Path, environ: Mapping[str, str], *, database_exists: bool) -> dict[str, str]:
    """Make the keys that are neither given nor there, and name their files.

    :param folder: where the key files live; made with mode 0700.
    :param environ: a key that it gives, itself or as ``<NAME>_FILE``, is left alone.
    :param database_exists: whether the data folder already holds a database; a key that is missing then
        is not made anew, since what the old one sealed would be lost without a word.
    :returns: ``<NAME>_FILE`` to path, for each key that is not given.
    :raises Misconfigured: when a key is missing or damaged, with the way on.
    """
    needed = [name for name in KEYS if not environ.get(name) and not environ.get(f"{name}_FILE")]
    lost_is_an_error = database_exists and folder.is_dir()
    files = {}
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in needed:
            path = folder / name.removeprefix("MEDIC_").lower()
            if not path.exists():
                if lost_is_an_error:
                    raise Misconfigured(
                        f"The key {path} is missing, but the database beside it was made with it: put it back, "
                        f"or set {name} (with a new key, what the old one protected is lost)."
                    )
                _make(path)
            _check(path, name)
            files[f"{name}_FILE"] = str(path)
    except OSError as error:
        raise Misconfigured(f"The keys in {folder} cannot be read or written: {error.strerror}.") from None
    return files


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        draft.unlink()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _make(path: Path) -> None:
    write_private(path, base64.b64encode(secrets.token_bytes(_SIZE)).decode("ascii") + "\n")


def _check(path: Path, name: str) -> None:
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    try:
        size = len(base64.b64decode(path.read_bytes().strip(), validate=True))
    except binascii.Error:
        size = 0
    if size != _SIZE:
        raise Misconfigured(
            f"The key {path} is damaged (it must be base64 of {_SIZE} bytes): put it back, or set {name}."
        )
