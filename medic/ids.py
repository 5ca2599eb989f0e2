"""Ids that are unique over installations and sort by time: UUID version 7 of RFC 9562, section 5.7."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

ENTROPY_BYTES = 10


def uuid7(at: datetime, entropy: bytes) -> UUID:
    """The id of something made at ``at``.

    :param entropy: `ENTROPY_BYTES` random bytes.
    """
    millis = int(at.timestamp() * 1000)
    value = (millis << 80) | int.from_bytes(entropy[:ENTROPY_BYTES], "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)
