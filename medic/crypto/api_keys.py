"""API keys: ``mdk_`` + 12 characters of public id + ``_`` + 32 secret + 6 of checksum, all base62.

The public id finds the row; the row holds an HMAC of the whole key under the pepper, which is not in the
database.  A key carries 190 random bits, so no slow hash is needed: those are for secrets that people
choose.  The checksum (CRC-32, as in GitHub's tokens) lets a typing error or a made-up key fail without a
look into the database.  It protects nothing.
"""

from __future__ import annotations

import hmac
import re
import zlib
from typing import Final, Literal, NamedTuple

from pydantic import SecretStr

PATTERN: Final = r"mdk_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}"
"""How an API key looks, for secret scanners and for our own log redaction."""

RANDOM_BYTES: Final = 48
"""What `mint` takes: 262 bits are used; the rest makes every character equally likely (to 2**-122)."""

Kind = Literal["mdk", "mds"]
"""``mdk`` is an API key, ``mds`` a session of the console; one is never taken for the other."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 12
_SECRET_LENGTH: Final = 32
_CRC_LENGTH: Final = 6
ID_PLACE: Final = slice(4, 4 + _ID_LENGTH)
"""Where the public id stands in a text that is a key."""

_SHAPES: Final = {kind: re.compile(PATTERN.replace("mdk", kind, 1), re.ASCII) for kind in ("mdk", "mds")}
_MIN_PEPPER: Final = 32
_DUMMY_DIGEST: Final = bytes(32)


class MintedKey(NamedTuple):
    """A new key.  ``text`` is shown once and never stored."""

    public_id: str
    text: SecretStr


def mint(kind: Kind = "mdk", *, random: bytes) -> MintedKey:
    """Make a key.

    :param random: `RANDOM_BYTES` fresh bytes from `secrets.token_bytes`.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"random must be {RANDOM_BYTES} bytes")
    number = int.from_bytes(random, "big")
    number, low = divmod(number, 62**_ID_LENGTH)
    public_id = _base62(low, _ID_LENGTH)
    secret = _base62(number % 62**_SECRET_LENGTH, _SECRET_LENGTH)
    body = f"{kind}_{public_id}_{secret}"
    return MintedKey(public_id, SecretStr(body + _checksum(body)))


def parse(text: str, *, kind: Kind = "mdk") -> str | None:
    """The public id of a text that has the shape and checksum of a key, else None.  No proof of anything."""
    if _SHAPES[kind].fullmatch(text) is None:
        return None
    body, checksum = text[:-_CRC_LENGTH], text[-_CRC_LENGTH:]
    return body.split("_")[1] if checksum == _checksum(body) else None


def digest(pepper: bytes, text: str) -> bytes:
    """What the row keeps of a key: HMAC-SHA-256 of all of it, 32 bytes.

    :param pepper: 32 bytes or more.
    """
    if len(pepper) < _MIN_PEPPER:
        raise ValueError(f"the pepper must be {_MIN_PEPPER} bytes or more")
    return hmac.digest(pepper, text.encode("utf-8", "surrogatepass"), "sha256")


def matches(pepper: bytes, text: str, stored: bytes | None) -> bool:
    """Whether the text is the key of the row, in the same time whatever differs.

    :param stored: the row's digest; None when no row has the id: then a digest is compared all the same,
        so that the answer's time does not tell which ids exist.
    """
    same = hmac.compare_digest(digest(pepper, text), _DUMMY_DIGEST if stored is None else stored)
    return same and stored is not None


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CRC_LENGTH)
