"""Which Medic a program speaks to, and with which key.

Each of the two is taken from the argument, else from MEDIC_BASE_URL and MEDIC_API_KEY (or the file that
MEDIC_API_KEY_FILE names), else from ``./.medic``, the data folder of a local `medic up`.  The key of a data
folder goes to the server of that folder only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from medic.errors import Misconfigured

LOCAL_FOLDER = Path(".medic")


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the key for it; its ``repr`` does not hold the key."""

    url: str
    key: str | None = field(default=None, repr=False)


def find_address(
    environ: Mapping[str, str],
    *,
    url: str | None = None,
    key: str | None = None,
    folder: Path = LOCAL_FOLDER,
) -> Address:
    """Find the server and the key.

    :param key: the key itself, or ``@FILE``, which keeps it out of the list of processes.
    :raises Misconfigured: when no server is named, or what names it cannot be used; never holds the key.
    """
    chosen = url or environ.get("MEDIC_BASE_URL") or None
    local = _local(folder) if chosen is None or key is None else None
    if chosen is None:
        if local is None:
            raise Misconfigured("no server is named: give a URL, or set MEDIC_BASE_URL.")
        chosen = local.url
    chosen = _checked_url(chosen)
    secret = _given(key) if key else _from_environment(environ)
    if secret is None and local is not None and local.url == chosen:
        secret = local.key
    if secret is not None and not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise Misconfigured("the API key holds characters that no key has; look where it comes from.")
    return Address(chosen, secret or None)


def _local(folder: Path) -> Address | None:
    try:
        found = json.loads((folder / "client.json").read_text(encoding="utf-8"))
        url = _checked_url(str(found["url"]))
        key_file = Path(found["key_file"])
    except (OSError, ValueError, KeyError, TypeError, Misconfigured):
        return None
    try:
        return Address(url, key_file.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return Address(url)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise Misconfigured("the server's URL is not usable: write it as https://medic.example.com")
    return url.rstrip("/")


def _given(key: str) -> str:
    return _read(Path(key[1:]), "the key") if key.startswith("@") else key.strip()


def _from_environment(environ: Mapping[str, str]) -> str | None:
    if value := environ.get("MEDIC_API_KEY", "").strip():
        return value
    file = environ.get("MEDIC_API_KEY_FILE", "")
    return _read(Path(file), "MEDIC_API_KEY_FILE") if file else None


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise Misconfigured(f"{what}: the file {path} cannot be read.") from None
