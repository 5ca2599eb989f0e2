from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.crypto.audit_chain import GENESIS, MAX_INTEGER, Audit, Head, canonical, extend, verify
from medic.errors import Invalid

KEY = b"k" * 32
ENTRIES: list[Any] = [{"action": "key.create", "n": n, "actor": {"kind": "key", "id": "é"}} for n in range(6)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def chain(entries: list[Any], key: bytes = KEY) -> list[tuple[int, Any, bytes]]:
    head, links = GENESIS, []
    for entry in entries:
        head = extend(key, head, entry)
        links.append((head.n, entry, head.digest))
    return links


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # RFC 8785, section 3.2.3: keys are sorted by UTF-16 code units (U+1F600 before U+FB33).
        (
            {
                "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
                "1": "One", "\U0001f600": "Emoji: Grinning Face", "\u0080": "Control",
                "\u00f6": "Latin Small Letter O With Diaeresis",
            },
            ('{"\\r":"Carriage Return","1":"One","\u0080":"Control","ö":"Latin Small Letter O With Diaeresis",'
             '"€":"Euro Sign","😀":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}'),
        ),
        # RFC 8785, section 3.2.2: the strings of its example.
        ({"string": "\u20ac$\u000f\nA'\u0042\u0022\u005c\\\"\u002f"}, '{"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'),
        ({"literals": [None, True, False]}, '{"literals":[null,true,false]}'),
        ({"b": [], "a": {}, "": -0}, '{"":0,"a":{},"b":[]}'),
        ("\b\t\n\f\r\x00\x1f\x7f\u2028", '"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"'),
        ([MAX_INTEGER, -MAX_INTEGER], "[9007199254740991,-9007199254740991]"),
    ],
)  # fmt: skip
def test_the_canonical_form_is_that_of_rfc_8785(value: Any, text: str) -> None:
    assert canonical(value).decode() == text


@given(JSON)
def test_the_canonical_form_is_json_and_knows_no_order_of_keys(value: Any) -> None:
    text = canonical(value)
    assert json.loads(text) == value

    def reversed_keys(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_keys(item[key]) for key in reversed(item)}
        return [reversed_keys(one) for one in item] if isinstance(item, list) else item

    assert canonical(reversed_keys(value)) == text


@pytest.mark.parametrize(
    "value",
    [1.5, 2**53, -(2**53), {1: "a"}, {"a": {None: 1}}, b"bytes", {"a": {1, 2}}, "\ud800", {"\udfff": 1}],
)
def test_what_has_no_one_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical({"entry": value})


def test_the_hash_is_the_stated_formula() -> None:
    first = hmac.new(KEY, bytes(32) + (1).to_bytes(8, "big") + b'{"a":1}', hashlib.sha256).digest()
    assert extend(KEY, GENESIS, {"a": 1}) == Head(1, first)
    second = hmac.new(KEY, first + (2).to_bytes(8, "big") + b"{}", hashlib.sha256).digest()
    assert extend(KEY, Head(1, first), {}) == Head(2, second)


def test_a_whole_chain_verifies_and_gives_its_head() -> None:
    links = chain(ENTRIES)
    assert verify(KEY, links) == Audit(Head(6, links[-1][2]), None)
    assert verify(KEY, []) == Audit(GENESIS, None)


def test_a_chain_verifies_from_a_trusted_head_on() -> None:
    links = chain(ENTRIES)
    assert verify(KEY, links[3:], start=Head(3, links[2][2])).broken_at is None
    assert verify(KEY, links[3:], start=Head(3, bytes(32))).broken_at == 4


@pytest.mark.parametrize("n", range(1, 7))
def test_every_kind_of_change_is_found_where_it_is(n: int) -> None:
    links = chain(ENTRIES)
    i = n - 1
    edited = [*links[:i], (n, {"action": "key.revoke"}, links[i][2]), *links[n:]]
    assert verify(KEY, edited).broken_at == n
    rehashed = [*links[:i], (n, links[i][1], bytes(32)), *links[n:]]
    assert verify(KEY, rehashed).broken_at == n
    unreadable = [*links[:i], (n, {"fraction": 1.5}, links[i][2]), *links[n:]]
    assert verify(KEY, unreadable).broken_at == n
    renumbered = [*links[:i], (n + 10, links[i][1], links[i][2]), *links[n:]]
    assert verify(KEY, renumbered).broken_at == n
    inserted = [*links[:i], (n, {}, links[i][2]), *links[i:]]
    assert verify(KEY, inserted).broken_at == n
    replayed = [*links[:n], links[i], *links[n:]]
    assert verify(KEY, replayed).broken_at == n + 1
    if n < 6:
        assert verify(KEY, links[:i] + links[n:]).broken_at == n
        swapped = [*links[:i], links[n], links[i], *links[n + 1 :]]
        assert verify(KEY, swapped).broken_at == n


def test_a_cut_end_and_a_chain_written_anew_show_against_an_anchor_only() -> None:
    links = chain(ENTRIES)
    anchor = Head(5, links[4][2])
    assert verify(KEY, links, anchor=anchor).broken_at is None
    assert verify(KEY, links[:3]).broken_at is None
    assert verify(KEY, links[:3], anchor=anchor).broken_at == 4
    anew = chain([{"action": "nothing"}] * 6)
    assert verify(KEY, anew).broken_at is None
    assert verify(KEY, anew, anchor=anchor).broken_at == 5


def test_an_anchor_before_the_start_is_a_mistake_of_the_caller() -> None:
    links = chain(ENTRIES)
    start = Head(3, links[2][2])
    with pytest.raises(ValueError, match="anchor"):
        verify(KEY, links[3:], start=start, anchor=Head(2, links[1][2]))
    assert verify(KEY, links[3:], start=start, anchor=start).broken_at is None


def test_without_the_key_no_new_tail_can_be_made() -> None:
    assert verify(KEY, chain(ENTRIES, key=b"x" * 32)).broken_at == 1
    with pytest.raises(ValueError, match="audit key"):
        extend(b"short", GENESIS, {})
