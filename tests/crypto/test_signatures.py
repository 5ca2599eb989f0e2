"""Known answers of both protocols, and strangers' headers."""

from __future__ import annotations

import base64
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from medic.crypto.signatures import (
    SECRET_BYTES,
    same_secret,
    sign_slack,
    sign_webhook,
    verify_slack,
    verify_webhook,
    webhook_key,
    webhook_secret,
)
from medic.errors import Invalid

# Slack's own example (api.slack.com, "Verifying requests from Slack").
SLACK_KEY = b"8f742231b10e8888abcd99yyyzzz85a5"
SLACK_TIME = 1531420618
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
SLACK_NOW = datetime.fromtimestamp(SLACK_TIME, UTC)

# The example of the Standard Webhooks libraries.
KEY = webhook_key(SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
NOW = datetime.fromtimestamp(TIME, UTC)

HEADER = st.one_of(st.none(), st.text(), st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)))


def slack(**changed: object) -> bool:
    given = {"timestamp": str(SLACK_TIME), "signature": SLACK_SIGNATURE, "body": SLACK_BODY, "now": SLACK_NOW}
    return verify_slack([SLACK_KEY], **(given | changed))  # type: ignore[arg-type]


def webhook(**changed: object) -> bool:
    given = {"message_id": MESSAGE, "timestamp": str(TIME), "signature": SIGNATURE, "body": BODY, "now": NOW}
    return verify_webhook([KEY], **(given | changed))  # type: ignore[arg-type]


def test_slacks_known_answer() -> None:
    assert sign_slack(SLACK_KEY, timestamp=SLACK_TIME, body=SLACK_BODY) == SLACK_SIGNATURE
    assert slack()


def test_the_known_answer_of_standard_webhooks() -> None:
    assert sign_webhook([KEY], message_id=MESSAGE, timestamp=TIME, body=BODY) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(TIME),
        "webhook-signature": SIGNATURE,
    }
    assert webhook()


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_signature_is_good_for_five_minutes_either_way(seconds: int) -> None:
    assert slack(now=SLACK_NOW + timedelta(seconds=seconds))
    assert webhook(now=NOW + timedelta(seconds=seconds))
    late = timedelta(seconds=seconds + (1 if seconds > 0 else -1) * 0.001)
    assert not slack(now=SLACK_NOW + late)
    assert not webhook(now=NOW + late)


def test_two_secrets_may_be_live() -> None:
    other = b"o" * 32
    args = {"timestamp": str(SLACK_TIME), "signature": SLACK_SIGNATURE, "body": SLACK_BODY, "now": SLACK_NOW}
    for keys in ([SLACK_KEY, other], [other, SLACK_KEY]):
        assert verify_slack(keys, **args)  # type: ignore[arg-type]
    assert not verify_slack([other], **args)  # type: ignore[arg-type]
    signed = sign_webhook([other, KEY], message_id=MESSAGE, timestamp=TIME, body=BODY)
    assert signed["webhook-signature"].count("v1,") == 2
    for keys in ([KEY], [other], [b"x" * 32, other]):
        assert verify_webhook(
            keys, message_id=MESSAGE, timestamp=str(TIME), signature=signed["webhook-signature"], body=BODY, now=NOW
        )  # fmt: skip


def test_no_key_or_an_empty_one_verifies_nothing() -> None:
    signature = sign_slack(b"", timestamp=SLACK_TIME, body=SLACK_BODY)
    for keys in ([], [b""]):
        assert not verify_slack(
            keys, timestamp=str(SLACK_TIME), signature=signature, body=SLACK_BODY, now=SLACK_NOW
        )
    empty = sign_webhook([b""], message_id=MESSAGE, timestamp=TIME, body=BODY)["webhook-signature"]
    for keys in ([], [b""]):
        assert not verify_webhook(
            keys, message_id=MESSAGE, timestamp=str(TIME), signature=empty, body=BODY, now=NOW
        )


@given(body=st.binary(max_size=60), timestamp=HEADER, signature=HEADER)
def test_no_header_of_a_stranger_raises_or_passes_for_slack(
    body: bytes, timestamp: str | None, signature: str | None
) -> None:
    assert not slack(timestamp=timestamp)
    assert not slack(signature=signature)
    assert not slack(signature=f"v0={signature}")
    assert not slack(body=body)
    assert not slack(body=body, timestamp=timestamp, signature=signature)


@given(body=st.binary(max_size=60), message_id=HEADER, timestamp=HEADER, signature=HEADER)
def test_no_header_of_a_stranger_raises_or_passes_for_webhooks(
    body: bytes, message_id: str | None, timestamp: str | None, signature: str | None
) -> None:
    assert not webhook(message_id=message_id)
    assert not webhook(timestamp=timestamp)
    assert not webhook(signature=signature)
    assert not webhook(signature=f"v1,{signature}")
    assert not webhook(body=body)
    assert not webhook(body=body, message_id=message_id, timestamp=timestamp, signature=signature)


@pytest.mark.parametrize(
    "timestamp", ["abc", "", "-1", "+1531420618", " 1531420618", "1531420618\n", "01531420618", "١٥٣١٤٢٠٦١٨",
                  "1531420618.0", "9" * 13, "1e9"],
)  # fmt: skip
def test_a_timestamp_is_digits_and_nothing_else(timestamp: str) -> None:
    assert not slack(timestamp=timestamp)
    assert not webhook(timestamp=timestamp.replace("1531420618", str(TIME)))


@pytest.mark.parametrize(
    "signature", ["", "v1", "v1,", "v1,a,b", "v1,é", "v1a," + SIGNATURE[3:], "v2," + SIGNATURE[3:], SIGNATURE[3:],
                  SIGNATURE + "=", SIGNATURE.rstrip("="), SIGNATURE.replace("OE=", "OF="), SIGNATURE + "\n"],
)  # fmt: skip
def test_only_the_whole_canonical_signature_passes(signature: str) -> None:
    assert not webhook(signature=signature)
    assert webhook(signature=f"{signature} {SIGNATURE}")


def test_a_list_of_signatures_is_read_to_a_bound() -> None:
    assert webhook(signature="v1,x " * 15 + SIGNATURE)
    assert not webhook(signature="v1,x " * 16 + SIGNATURE)


@pytest.mark.parametrize(
    "signature", [SLACK_SIGNATURE.upper(), SLACK_SIGNATURE[3:], "v1" + SLACK_SIGNATURE[2:]]
)
def test_slacks_signature_is_read_to_the_letter(signature: str) -> None:
    assert not slack(signature=signature)


def test_an_id_with_a_full_stop_cannot_be_read_as_another_id_and_time() -> None:
    body = b"%d." % (TIME + 1) + BODY
    signed = sign_webhook([KEY], message_id=MESSAGE, timestamp=TIME, body=body)
    # The same bytes are signed, divided elsewhere.
    assert not webhook(
        message_id=f"{MESSAGE}.{TIME}",
        timestamp=str(TIME + 1),
        signature=signed["webhook-signature"],
        body=BODY,
    )
    with pytest.raises(ValueError, match="full stop"):
        sign_webhook([KEY], message_id="a.b", timestamp=TIME, body=BODY)


def test_signing_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="one key"):
        sign_webhook([], message_id=MESSAGE, timestamp=TIME, body=BODY)


def test_a_new_secret_reads_back_and_does_not_print() -> None:
    random = secrets.token_bytes(SECRET_BYTES)
    secret = webhook_secret(random)
    assert secret.get_secret_value().startswith("whsec_")
    assert webhook_key(secret) == random
    assert secret.get_secret_value() not in repr(secret)
    with pytest.raises(ValueError, match="random"):
        webhook_secret(b"short")


@pytest.mark.parametrize("key", [b"k" * 23, b"k" * 65])
def test_a_secret_of_a_wrong_length_is_refused(key: bytes) -> None:
    with pytest.raises(Invalid, match="24 to 64"):
        webhook_key(SecretStr("whsec_" + base64.b64encode(key).decode()))


@given(st.text())
def test_no_text_makes_the_secret_parser_fail_otherwise(text: str) -> None:
    with suppress(Invalid):
        assert 24 <= len(webhook_key(SecretStr(text))) <= 64


def test_a_shared_secret_is_compared_without_raising() -> None:
    secret = SecretStr("hunter2é")
    assert same_secret("hunter2é", secret)
    for wrong in (None, "", "hunter2", "hunter2é ", "\udcff"):
        assert not same_secret(wrong, secret)
    assert not same_secret("", SecretStr(""))
