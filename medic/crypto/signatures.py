"""Signed requests: Slack's v0 and Standard Webhooks 1.0, both ways.

Verification works on the raw bytes of the body, before anything parses them, and answers False to whatever
is malformed: a header is a stranger's text, and a stranger must not be able to make an error.  Several keys
may be live, so that a secret can be changed without a gap; all of them are tried, whichever matches.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import SecretStr

from medic.errors import Invalid

REPLAY_WINDOW: Final = 300
"""Seconds that a signature is good for, before and after now; both protocols say five minutes."""

SECRET_BYTES: Final = 32
"""What `webhook_secret` takes; Standard Webhooks allows 24 to 64."""

# No leading zeros: one time has one text, which is what was signed.
_TIMESTAMP = re.compile(r"0|[1-9][0-9]{0,11}", re.ASCII)
# No full stop: it separates the signed parts, and an id with one could be read as another id and time.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,256}", re.ASCII)
_MAX_SIGNATURES = 16


def sign_slack(key: bytes, *, timestamp: int, body: bytes) -> str:
    """The value of ``X-Slack-Signature``."""
    return "v0=" + hmac.digest(key, b"v0:%d:" % timestamp + body, "sha256").hex()


def verify_slack(
    keys: Sequence[bytes], *, timestamp: str | None, signature: str | None, body: bytes, now: datetime
) -> bool:
    """Whether Slack signed this request.

    :param keys: the signing secrets that are live, as bytes of their text; an empty one verifies nothing.
    :param timestamp: the header ``X-Slack-Request-Timestamp`` as it came; None when there was none.
    :param signature: the header ``X-Slack-Signature`` likewise.
    """
    at = _fresh(timestamp, now)
    if at is None or signature is None:
        return False
    given = signature.encode("utf-8", "surrogatepass")
    found = False
    for key in keys:
        expected = sign_slack(key, timestamp=at, body=body).encode()
        found |= bool(key) and hmac.compare_digest(expected, given)
    return found


def webhook_secret(random: bytes) -> SecretStr:
    """A new signing secret, as both sides write it.

    :param random: `SECRET_BYTES` fresh bytes from `secrets.token_bytes`.
    """
    if len(random) != SECRET_BYTES:
        raise ValueError(f"random must be {SECRET_BYTES} bytes")
    return SecretStr("whsec_" + base64.b64encode(random).decode())


def webhook_key(secret: SecretStr) -> bytes:
    """The key in a signing secret: base64 of 24 to 64 bytes, with or without ``whsec_`` before it.

    :raises Invalid: when it is neither.
    """
    text = secret.get_secret_value().strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise Invalid.at("signing_secret", "is not whsec_ and base64 of 24 to 64 bytes")
    return key


def sign_webhook(keys: Sequence[bytes], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a webhook, with one signature for each live key.

    :param message_id: the same for each retry; visible ASCII without a full stop, 256 characters at most.
    :param timestamp: the time of this attempt, in seconds since 1970.
    """
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise ValueError("message_id must be visible ASCII without a full stop")
    if not keys:
        raise ValueError("a webhook is signed with one key at least")
    signed = [_webhook_signature(key, message_id, timestamp, body) for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signed),
    }


def verify_webhook(
    keys: Sequence[bytes],
    *,
    message_id: str | None,
    timestamp: str | None,
    signature: str | None,
    body: bytes,
    now: datetime,
) -> bool:
    """Whether a holder of one of the keys signed this request.

    :param keys: from `webhook_key`; an empty one verifies nothing.
    :param signature: the header ``webhook-signature``: a list divided by spaces; versions other than ``v1``
        are passed over, and so are all after the sixteenth.
    """
    at = _fresh(timestamp, now)
    if at is None or message_id is None or signature is None or _MESSAGE_ID.fullmatch(message_id) is None:
        return False
    given = [
        one.removeprefix("v1,").encode("utf-8", "surrogatepass")
        for one in signature.split(" ", _MAX_SIGNATURES)[:_MAX_SIGNATURES]
        if one.startswith("v1,")
    ]
    found = False
    for key in keys:
        # Compared as text: only the one canonical base64 of the signature is good.
        expected = base64.b64encode(_webhook_signature(key, message_id, at, body))
        for one in given:
            found |= bool(key) and hmac.compare_digest(expected, one)
    return found


def same_secret(given: str | None, expected: SecretStr) -> bool:
    """Whether a header holds a shared secret, in the same time whatever differs.

    An empty secret is held by nobody.
    """
    if given is None:
        return False
    wanted = expected.get_secret_value().encode("utf-8", "surrogatepass")
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted) and bool(wanted)


def _webhook_signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> bytes:
    return hmac.digest(key, b"%s.%d." % (message_id.encode("ascii"), timestamp) + body, "sha256")


def _fresh(timestamp: str | None, now: datetime) -> int | None:
    if timestamp is None or _TIMESTAMP.fullmatch(timestamp) is None:
        return None
    at = int(timestamp)
    return at if abs(now.timestamp() - at) <= REPLAY_WINDOW else None
