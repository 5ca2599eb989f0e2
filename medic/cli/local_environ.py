"""The settings of a Medic that `medic up` runs here, for commands that look at its servers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medic.local.folder import DataFolder
from medic.local.keys import KEYS
from medic.local.postgres import Postgres
from medic.local.valkey import Valkey


def local_environ(environ: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """The environment, with what a running `medic up` on this folder made for itself.

    What the environment names stays; a folder on which nothing runs adds nothing.
    """
    completed = dict(environ)
    folder = DataFolder(data_dir)
    if not folder.client.is_file():
        return completed
    names = ("MEDIC_DATABASE_URL", "DATABASE_URL", "DB_HOST")
    if not any(_is_given(environ, name) for name in names) and (
        (folder.postgres / "cluster" / "postmaster.pid").is_file()
    ):
        completed["MEDIC_DATABASE_URL"] = Postgres(folder, durable=True).url
    if not _is_given(environ, "REDIS_URL") and (folder.sockets() / "valkey.sock").is_socket():
        completed["REDIS_URL"] = Valkey(folder).url
    for name in KEYS:
        file = folder.keys / name.removeprefix("MEDIC_").lower()
        if not _is_given(environ, name) and file.is_file():
            completed[f"{name}_FILE"] = str(file)
    if not environ.get("MEDIC_RUN_DIR"):
        completed["MEDIC_RUN_DIR"] = str(folder.run)
    return completed


def _is_given(environ: Mapping[str, str], name: str) -> bool:
    return bool(environ.get(name) or environ.get(f"{name}_FILE"))
