"""Which Medic is spoken to, and with which key: the one rule for programs, jobs and the command line.

Each of the two is taken from the argument, else from the data folder when one is given, else from
MEDIC_BASE_URL and MEDIC_API_KEY (or the file that MEDIC_API_KEY_FILE names), else from ``./.medic``, the data
folder of a local `medic up`.  The key of a data folder goes to the server of that folder only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medic.errors import Misconfigured

LOCAL_FOLDER = Path(".medic")


class Key:
    """An API key, which does not print."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key itself, for the one header that carries it."""
        return self._text

    def is_sendable(self) -> bool:
        """Whether it could be a key at all; another would split the header, or fail in it."""
        return self._text.isascii() and self._text.isprintable() and " " not in self._text

    def __repr__(self) -> str:
        return "Key('…')"


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the key for it; without a key only what is open answers."""

    url: str
    key: Key | None = None


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
    :raises Misconfigured: when no server is named, or what names it cannot be used; never holds the key.
    """
    named = url or (None if data_dir else environ.get("MEDIC_BASE_URL") or None)
    chosen = _checked_url(named) if named else None
    local = None
    if chosen is None or not key:
        local = _local(data_dir or LOCAL_FOLDER, is_needed=chosen is None)
    if chosen is None:
        if local is None and data_dir is not None:
            raise Misconfigured(f"No Medic was started on {data_dir}: there is no client.json in it.")
        if local is None:
            raise Misconfigured(
                "No server: give its URL (--url), set MEDIC_BASE_URL, or run this where `medic up` was started."
            )
        chosen = local.url
    own = local.key if local is not None and local.url == chosen else None
    if key:
        secret: Key | None = _read(Path(key[1:]), "--key") if key.startswith("@") else Key(key.strip())
    elif data_dir is not None and own is not None:
        secret = own
    else:
        secret = _from_environment(environ) or own
    if secret is not None and not secret.is_sendable():
        raise Misconfigured("The API key holds characters that no key has; look where it comes from.")
    return Address(chosen, secret)


def _local(folder: Path, *, is_needed: bool) -> Address | None:
    """The server of a data folder, with its first admin key; nothing when none was started on it.

    :param is_needed: False: it could give no more than a key, so that a damaged one is as none.
    """
    file = folder / "client.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        url, key_file = _checked_url(str(found["url"])), Path(found["key_file"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, Misconfigured) as error:
        if not is_needed:
            return None
        if isinstance(error, OSError):
            raise Misconfigured(f"{file} cannot be read: {error.strerror}.") from None
        raise Misconfigured(f"{file} is damaged: remove it, or give the server's URL (--url).") from None
    try:
        return Address(url, _read(key_file, "the key"))
    except Misconfigured:
        return Address(url)


def _checked_url(url: str) -> str:
    """The base URL without a slash at its end."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    # http.client would refuse a blank or a control character only when the first signal is sent.
    if not usable or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise Misconfigured("The server's URL is not usable: write it as https://medic.example.com")
    if parts.username is not None or parts.password is not None:
        raise Misconfigured("The server's URL holds a user or password: Medic takes an API key instead.")
    return url.rstrip("/")


def _from_environment(environ: Mapping[str, str]) -> Key | None:
    value, file = environ.get("MEDIC_API_KEY", "").strip(), environ.get("MEDIC_API_KEY_FILE", "")
    if value and file:
        raise Misconfigured("MEDIC_API_KEY: set it or MEDIC_API_KEY_FILE, not both")
    if file:
        return _read(Path(file), "MEDIC_API_KEY_FILE")
    return Key(value) if value else None


def _read(path: Path, what: str) -> Key | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise Misconfigured(f"{what}: the file {path} cannot be read.") from None
    return Key(text) if text else None
