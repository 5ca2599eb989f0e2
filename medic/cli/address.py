"""Which server a command speaks to, and with which key.

Each of the two is taken from its option, else from ``--data-dir`` when that is given, else from
MEDIC_BASE_URL and MEDIC_API_KEY (or the file that MEDIC_API_KEY_FILE names), else from ``./.medic``, the
data folder of a local `medic up`.  The key of a data folder goes to the server of that folder only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from medic.errors import Misconfigured

DEFAULT_FOLDER = Path(".medic")


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the key for it; without a key only what is open answers."""

    url: str
    key: SecretStr | None


def find_address(
    environ: Mapping[str, str],
    *,
    url: str | None = None,
    key: str | None = None,
    data_dir: Path | None = None,
) -> Address:
    """Find the server and the key.

    :param key: the key itself, or ``@FILE``, which keeps it out of the list of processes.
    :param data_dir: where a local `medic up` keeps its data; given, it wins over the environment.
    :raises Misconfigured: when no server is named, or what names it cannot be used.
    """
    local = local_address(data_dir or DEFAULT_FOLDER)
    if data_dir is not None and local is None and url is None:
        raise Misconfigured(f"No Medic was started on {data_dir}: there is no client.json in it.")
    named = environ.get("MEDIC_BASE_URL") or None
    chosen = url or (local.url if local and data_dir else None) or named or (local.url if local else None)
    if chosen is None:
        raise Misconfigured(
            "No server: give --url, set MEDIC_BASE_URL, or run this where `medic up` was started."
        )
    chosen = check_url(chosen)
    own = local.key if local is not None and local.url == chosen else None
    if key is not None:
        secret: SecretStr | None = _given(key)
    elif data_dir is not None and own is not None:
        secret = own
    else:
        secret = _key_of(environ) or own
    return Address(chosen, secret)


def local_address(folder: Path) -> Address | None:
    """The server of a data folder, with its first admin key; nothing when none was started on it.

    :raises Misconfigured: when the folder's ``client.json`` is damaged.
    """
    try:
        found = json.loads((folder / "client.json").read_text(encoding="utf-8"))
        url, key_file = str(found["url"]), Path(found["key_file"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Misconfigured(f"{folder / 'client.json'} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise Misconfigured(f"{folder / 'client.json'} is damaged: remove it, or give --url.") from None
    try:
        return Address(check_url(url), SecretStr(key_file.read_text(encoding="utf-8").strip()))
    except (OSError, UnicodeDecodeError):
        return Address(check_url(url), None)


def check_url(url: str) -> str:
    """The base URL without a slash at its end.

    :raises Misconfigured: when it is none.
    """
    try:
        parts = urlsplit(url)
        usable = bool(parts.scheme in {"http", "https"} and parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise Misconfigured("The server's URL is not usable: write it as https://medic.example.com")
    if parts.username is not None or parts.password is not None:
        raise Misconfigured("The server's URL holds a user or password: Medic takes an API key instead.")
    return url.rstrip("/")


def _given(key: str) -> SecretStr:
    if not key.startswith("@"):
        return SecretStr(key.strip())
    return _read(Path(key[1:]), "--key")


def _key_of(environ: Mapping[str, str]) -> SecretStr | None:
    value, file = environ.get("MEDIC_API_KEY", "").strip(), environ.get("MEDIC_API_KEY_FILE", "")
    if value and file:
        raise Misconfigured("MEDIC_API_KEY: set it or MEDIC_API_KEY_FILE, not both")
    if file:
        return _read(Path(file), "MEDIC_API_KEY_FILE")
    return SecretStr(value) if value else None


def _read(path: Path, what: str) -> SecretStr:
    try:
        return SecretStr(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise Misconfigured(f"{what}: the file {path} cannot be read.") from None
