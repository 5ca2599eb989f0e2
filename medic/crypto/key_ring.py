"""The keys that wrap data keys: MEDIC_SECRETS_KEY.

Written as one key (base64 of 32 bytes), or as ``kid:key,kid:key``; the first seals, all unseal.  A key
without a name has one made of its hash.  Every key is also found under that name, so that a single key may
get a name later, when a second one joins it, and still opens what it sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from medic.errors import Misconfigured

KEY_BYTES = 32
_KID = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """``primary`` names the key that seals.  ``repr()`` shows no key."""

    primary: str
    _keys: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def parse(cls, text: SecretStr) -> KeyRing:
        """Read MEDIC_SECRETS_KEY.

        :raises Misconfigured: saying which key is wrong, never what it is.
        """
        named: dict[str, bytes] = {}
        derived: dict[str, bytes] = {}
        for position, item in enumerate(text.get_secret_value().split(","), start=1):
            kid, colon, encoded = item.strip().rpartition(":")
            key = _decode(encoded, position)
            name = _derived_kid(key)
            if not colon:
                kid = name
            elif _KID.fullmatch(kid) is None:
                raise _wrong(position, "has a name that is not 1 to 32 letters, digits, dots, - or _")
            if kid in named:
                raise _wrong(position, "has the name of an earlier one")
            named[kid] = key
            derived[name] = key
        return cls(next(iter(named)), {**derived, **named})

    def key(self, kid: str) -> bytes:
        """The key of that name.

        :raises Misconfigured: when the ring has none.
        """
        try:
            return self._keys[kid]
        except KeyError:
            raise Misconfigured(
                f"MEDIC_SECRETS_KEY: holds no key {kid!r}, which sealed this secret; add that key again."
            ) from None


def _decode(encoded: str, position: int) -> bytes:
    # Both alphabets, with or without padding: people paste what their tool printed.
    text = encoded.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise _wrong(position, "is not base64 of 32 bytes; make one with: openssl rand -base64 32")
    return key


def _derived_kid(key: bytes) -> str:
    return "k" + hashlib.sha256(b"medic/kid/v1\0" + key).hexdigest()[:12]


def _wrong(position: int, what: str) -> Misconfigured:
    return Misconfigured(f"MEDIC_SECRETS_KEY: key {position} {what}")
