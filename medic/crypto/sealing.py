"""Secrets at rest: envelope encryption with AES-256-GCM (NIST SP 800-38D).

An envelope is bytes, version 1:

    "v1" | length of kid (1) | kid | wrap nonce (12) | wrapped data key (48) | nonce (12) | ciphertext + tag

Each write has a data key of its own; the key ring (`medic.crypto.key_ring`) wraps it.  What a value belongs
to is authenticated with it (`Binding`): an envelope that is moved to another row, name or version does not
open.  Wrapping is bound to the key's name and the row, so the keys can be changed without the values.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from medic.crypto.key_ring import KeyRing
from medic.errors import MedicError, Misconfigured

_VERSION = b"v1"
_NONCE = 12
_WRAPPED = 48
_TAG = 16


class SealBroken(MedicError):
    """The envelope does not open: it was changed, moved, or is none."""

    code = "seal_broken"


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a batch of `rewrap` did.

    :param count: how many envelopes have the primary key now and had another before.
    :param broken: whose envelopes do not open, in words.
    :param last: the key of the last row looked at; empty when the batch found none.
    """

    count: int
    broken: tuple[str, ...]
    last: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a sealed value belongs to.

    :param table: what kind of thing it is, as ``secret``.
    :param id: the row's id; stays the same for life.
    :param version: grows with each new value.
    """

    table: str
    id: str
    name: str
    version: int

    def _value_context(self) -> bytes:
        return _context(b"value", self.table, self.id, self.name, str(self.version))

    def _wrap_context(self, kid: str) -> bytes:
        return _context(b"wrap", kid, self.table, self.id)


def seal(ring: KeyRing, value: SecretStr, binding: Binding) -> bytes:
    """Seal a value under the ring's primary key.

    Randomness is drawn here and not passed in: a nonce that a caller repeats would break the cipher.
    """
    data_key, nonce = secrets.token_bytes(32), secrets.token_bytes(_NONCE)
    plain = value.get_secret_value().encode()
    sealed = AESGCM(data_key).encrypt(nonce, plain, binding._value_context())  # noqa: SLF001
    return _wrap(ring, data_key, binding) + nonce + sealed


def unseal(ring: KeyRing, envelope: bytes, binding: Binding) -> SecretStr:
    """Open an envelope.

    :raises SealBroken: when it was changed, belongs to something else, or is no envelope.
    :raises Misconfigured: when the ring lacks the key it names.
    """
    kid, wrapped, rest = _split(envelope)
    data_key = _unwrap(ring, kid, wrapped, binding)
    try:
        plain = AESGCM(data_key).decrypt(rest[:_NONCE], rest[_NONCE:], binding._value_context())  # noqa: SLF001
        return SecretStr(plain.decode())
    except (InvalidTag, UnicodeDecodeError):
        raise _broken(binding) from None


def rewrap(ring: KeyRing, envelope: bytes, binding: Binding) -> bytes:
    """The same envelope under the ring's primary key; the value is not decrypted.

    An envelope that has this key already is returned as it is.

    :raises SealBroken: as in `unseal`, but for a wrong name or version, which only `unseal` sees.
    :raises Misconfigured: when the ring lacks the key it names.
    """
    kid, wrapped, rest = _split(envelope)
    if kid == ring.primary:
        return envelope
    return _wrap(ring, _unwrap(ring, kid, wrapped, binding), binding) + rest


def key_id(envelope: bytes) -> str:
    """The name of the key that an envelope needs.

    :raises SealBroken: when it is no envelope.
    """
    return _split(envelope)[0]


_CANARY = Binding(table="canary", id="0", name="canary", version=1)
_CANARY_VALUE = "the key that sealed this opens it"


def seal_canary(ring: KeyRing) -> bytes:
    """An envelope to store once, that tells at each start whether the keys are the right ones."""
    return seal(ring, SecretStr(_CANARY_VALUE), _CANARY)


def check_canary(ring: KeyRing, envelope: bytes) -> None:
    """Stop the start when the keys are not those of this database, rather than the first incident.

    :raises Misconfigured: when the ring does not open the canary.
    """
    try:
        opened = unseal(ring, envelope, _CANARY).get_secret_value()
    except SealBroken:
        opened = ""
    if opened != _CANARY_VALUE:
        raise Misconfigured(
            "MEDIC_SECRETS_KEY: does not open what this database was sealed with; set the key it had."
        )


def _wrap(ring: KeyRing, data_key: bytes, binding: Binding) -> bytes:
    kid, nonce = ring.primary, secrets.token_bytes(_NONCE)
    wrapped = AESGCM(ring.key(kid)).encrypt(nonce, data_key, binding._wrap_context(kid))  # noqa: SLF001
    name = kid.encode("ascii")
    return _VERSION + bytes([len(name)]) + name + nonce + wrapped


def _unwrap(ring: KeyRing, kid: str, wrapped: bytes, binding: Binding) -> bytes:
    cipher = AESGCM(ring.key(kid))
    try:
        return cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], binding._wrap_context(kid))  # noqa: SLF001
    except InvalidTag:
        raise _broken(binding) from None


def _split(envelope: bytes) -> tuple[str, bytes, bytes]:
    """Kid; wrap nonce and wrapped data key; nonce and ciphertext."""
    start = len(_VERSION) + 1
    length = envelope[start - 1] if len(envelope) >= start else 0
    end = start + length
    least = end + _NONCE + _WRAPPED + _NONCE + _TAG
    kid = envelope[start:end]
    if envelope[: len(_VERSION)] != _VERSION or not kid or len(envelope) < least or not kid.isascii():
        raise SealBroken("A sealed value is damaged: it is not an envelope of version 1.")
    body = end + _NONCE + _WRAPPED
    return kid.decode("ascii"), envelope[end:body], envelope[body:]


def _context(purpose: bytes, *parts: str) -> bytes:
    # Each part has its length before it, so that no two bindings read the same.
    encoded = [part.encode() for part in parts]
    return b"medic/" + purpose + b"/v1\0" + b"".join(len(p).to_bytes(4, "big") + p for p in encoded)


def _broken(binding: Binding) -> SealBroken:
    return SealBroken(
        f"The {binding.table} {binding.name!r} does not open: it was changed or moved. Set its value again."
    )
