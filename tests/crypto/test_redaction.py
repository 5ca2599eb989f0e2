from __future__ import annotations

import base64
import json
import time
import timeit
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from medic.crypto.redaction import MAX_LENGTH, Redactor, check_secret_value
from medic.errors import Invalid

# Making a pattern takes its time on a busy machine.
unhurried = settings(deadline=None, max_examples=60)

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=8, max_size=20)
TOKENS = st.text('abcAB01+/=&%"\\ é😀\n', min_size=8, max_size=16)


def redactor(*values: str) -> Redactor:
    return Redactor({f"S{n}": SecretStr(value) for n, value in enumerate(values)})


@unhurried
@given(value=VALUES, before=st.text(max_size=5), after=st.text(max_size=5))
def test_the_value_itself_is_replaced_wherever_it_stands(value: str, before: str, after: str) -> None:
    assume(value not in before + "[secret:S0]" + after)
    result = redactor(value).text(before + value + after)
    assert "[secret:S0]" in result
    assert value not in result.replace("[secret:S0]", "\0")


@unhurried
@given(value=VALUES)
def test_every_url_and_json_spelling_is_replaced_whole(value: str) -> None:
    spellings = [
        quote(value),
        quote(value, safe=""),
        quote(value).lower() if value.isascii() and value == value.lower() else quote(value),
        quote_plus(value),
        urlencode({"": value})[1:],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(value)[1:-1].replace("/", "\\/"),
        json.dumps(value)[1:-1].replace("<", "\\u003c").replace("&", "\\u0026"),
    ]
    for spelling in spellings:
        assert redactor(value).text(f"<{spelling}>") == "<[secret:S0]>"


@unhurried
@given(value=VALUES, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_base64_of_whatever_holds_the_value_is_replaced(value: str, before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + value.encode() + after).decode()
        for written in (text, text.rstrip("="), text.replace("/", "\\/"), quote(text, safe="")):
            result = redactor(value).text(written)
            assert "[secret:S0]" in result
            # What is left are at most the characters that belong to the neighbours alone.
            rest = len(result) - len("[secret:S0]")
            assert rest <= 3 * (4 + (len(before) + len(after)) * 4 // 3)


def test_a_basic_authorization_header_is_redacted() -> None:
    header = "Basic " + base64.b64encode(b"admin:hunter2hunter2").decode()
    result = redactor("hunter2hunter2").text(header)
    assert result.startswith("Basic YWRtaW4")
    assert result.endswith("[secret:S0]")


@unhurried
@given(values=st.lists(TOKENS, min_size=1, max_size=3), pieces=st.lists(st.text("abcAB01+/ ", max_size=8), max_size=6),
       data=st.data())  # fmt: skip
def test_a_stream_says_the_same_as_the_whole_text_however_it_is_cut(
    values: list[str], pieces: list[str], data: st.DataObject
) -> None:
    secrets = redactor(*values)
    text = ""
    for piece in pieces:
        value = data.draw(st.sampled_from(values))
        text += piece + data.draw(st.sampled_from([value, quote(value, safe=""), json.dumps(value)[1:-1],
            base64.b64encode(b"x" + value.encode()).decode()]))  # fmt: skip
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream, out = secrets.stream(), ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        out += stream.feed(text[start:end])
        for value in values:
            assert value not in out.replace("[secret:", "\0")
    assert out + stream.finish() == secrets.text(text)


def test_a_stream_keeps_back_no_more_than_a_secret_could_need() -> None:
    secrets = redactor("hunter2hunter2")
    stream = secrets.stream()
    assert len(stream.feed("x" * 1000)) == 1000 - (secrets.longest - 1)
    assert len(stream.finish()) == secrets.longest - 1
    assert stream.finish() == ""


def test_a_secret_cut_in_the_middle_is_caught() -> None:
    stream = redactor("hunter2hunter2").stream()
    out = stream.feed("password hunter2") + stream.feed("hunter2 done") + stream.finish()
    assert out == "password [secret:S0] done"


def test_of_two_secrets_the_longer_one_is_taken() -> None:
    secrets = Redactor({"SHORT": SecretStr("abcdefgh"), "LONG": SecretStr("abcdefghijkl")})
    assert secrets.text("abcdefghijkl abcdefgh") == "[secret:LONG] [secret:SHORT]"


def test_nested_json_is_redacted_in_texts_keys_and_numbers() -> None:
    secrets = redactor("hunter2hunter2", "1234567890")
    value = {
        "a": ["x hunter2hunter2", 1234567890, 12.5, True, None],
        "hunter2hunter2": {"deep": ({"er": "hunter2hunter2"},)},
    }
    assert secrets.json(value) == {
        "a": ["x [secret:S0]", "[secret:S1]", 12.5, True, None],
        "[secret:S0]": {"deep": [{"er": "[secret:S0]"}]},
    }
    assert "hunter2hunter2" in value  # the argument is left as it is


def test_json_of_any_depth_is_no_danger() -> None:
    deep: Any = "hunter2hunter2"
    for _ in range(50_000):
        deep = [deep]
    result = redactor("hunter2hunter2").json(deep)
    for _ in range(64):
        result = result[0]
    assert result == "[too deep]"


def test_without_secrets_everything_passes() -> None:
    nothing = Redactor({"EMPTY": SecretStr("")})
    assert nothing.text("text") == "text"
    assert nothing.json({"a": [1]}) == {"a": [1]}
    stream = nothing.stream()
    assert stream.feed("text") == "text"
    assert stream.finish() == ""


@unhurried
@given(st.text(max_size=200))
def test_text_without_a_secret_is_left_as_it_is(text: str) -> None:
    assert redactor("a value that nothing holds").text(text) == text


def test_output_without_secrets_is_searched_quickly() -> None:
    secrets = redactor(*(base64.b64encode(bytes([n]) * 30).decode() + f"/+{n}" for n in range(10)))
    text = "some line of a log with numbers 12345\n" * 3_000

    def best_of_three(search: Callable[[str], object]) -> float:
        return min(timeit.repeat(lambda: search(text), number=1, repeat=3))

    assert secrets._pattern is not None
    assert best_of_three(secrets.text) < best_of_three(secrets._pattern.search) / 5


@pytest.mark.parametrize(
    "value", ["", "1234567", "x" * (MAX_LENGTH + 1), "hunter2\0hunter2", "hunter2\ud800hunter"]
)
def test_a_value_that_cannot_be_redacted_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_secret_value(value)
    assert caught.value.problems[0].path == "value"
    assert "hunter2" not in str(caught.value)


def test_a_value_of_eight_characters_is_taken() -> None:
    check_secret_value("12345678")
    check_secret_value("x" * MAX_LENGTH)


@pytest.mark.parametrize("char", ["\\", "%", "+", " ", "/", '"'])
def test_a_value_of_one_repeated_character_does_not_make_the_search_explode(char: str) -> None:
    secrets = redactor(char * 200 + "x")
    start = time.perf_counter()
    for text in (char * 2_000, json.dumps(char * 2_000), quote(char * 2_000)):
        assert secrets.text(text) == text
    assert time.perf_counter() - start < 5
