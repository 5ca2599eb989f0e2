"""Which addresses are public: named cases, and two libraries that we did not write as judges."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from AntiSSRF import IPAddressRanges
from AntiSSRF._ipaddr import IPAddress
from AntiSSRF.antissrf_policy import AntiSSRFPolicy, PolicyConfigOptions
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests_hardened.ip_filter import InvalidIPAddress, get_ip_address

from medic.egress.addresses import Address, is_metadata, is_private_use, judge

_REFUSED = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254
    169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
    192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 100.100.100.200
    :: ::1 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::a00:1
    64:ff9c::1 100::1 100:0:0:1::1 2001::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2620:4f:8000::1 3fff::1
    5f00::1 fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%1 2606:4700:4700::1111%1 fec0::1 ff02::1 4000::1
    2606:4700::a9fe:a9fe
"""

_PUBLIC = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.0.1.0 198.17.255.255 "
_PUBLIC += "223.255.255.255 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001::1 2620:fe::fe"


@pytest.mark.parametrize("text", _REFUSED.split())
def test_an_address_that_is_not_public_is_named_so(text: str) -> None:
    assert judge(ip_address(text))


@pytest.mark.parametrize("text", _PUBLIC.split())
def test_a_public_address_stays_reachable(text: str) -> None:
    assert judge(ip_address(text)) is None


def _embedded(inner: IPv4Address) -> list[IPv6Address]:
    number = int(inner)
    high, low = number >> 16, number & 0xFFFF
    return [
        IPv6Address(number),  # compatible
        IPv6Address(0xFFFF << 32 | number),  # mapped
        IPv6Address(0xFFFF << 48 | number),  # translated
        IPv6Address(f"64:ff9b::{high:x}:{low:x}"),
        IPv6Address(f"64:ff9b:1::{high:x}:{low:x}"),
        IPv6Address(f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::"),  # RFC 6052, /48
        IPv6Address(f"2002:{high:x}:{low:x}::1"),
        IPv6Address(f"2001:0:{high:x}:{low:x}::"),  # Teredo server
        IPv6Address(0x2001 << 112 | 8 << 64 | (number ^ 0xFFFF_FFFF)),  # Teredo client
    ]


@pytest.mark.parametrize("text", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "8.8.8.8"])
def test_no_ipv6_form_carries_an_ipv4_address_past_the_judge(text: str) -> None:
    assert all(judge(form) for form in _embedded(IPv4Address(text)))


@pytest.mark.parametrize("text", ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200"])
def test_a_metadata_address_is_known_in_every_form(text: str) -> None:
    inner = IPv4Address(text)
    forms: list[Address] = [inner, *_embedded(inner)]
    for form in forms:
        assert is_metadata(form), form


@pytest.mark.parametrize("text", ["127.0.0.1", "10.0.0.1", "fd00::1", "8.8.8.8", "2606:4700:4700::1111"])
def test_other_addresses_are_no_metadata(text: str) -> None:
    assert not is_metadata(ip_address(text))


def test_private_use_is_private_networks_and_nothing_else() -> None:
    inside = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1"]
    outside = ["127.0.0.1", "169.254.1.1", "0.0.0.0", "8.8.8.8", "::1", "fe80::1", "::ffff:10.0.0.1"]
    assert [is_private_use(ip_address(text)) for text in inside] == [True] * 5
    assert not any(is_private_use(ip_address(text)) for text in outside)


_TABLE = [ip_network(text) for text in IPAddressRanges.recommended_v1]
_EDGES = [
    type(network[0])(number)
    for network in _TABLE
    for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1)
    if 0 <= number < 2**network.max_prefixlen
]
ADDRESSES = st.one_of(
    st.sampled_from(_EDGES),
    st.sampled_from(_TABLE).flatmap(
        lambda network: st.integers(int(network[0]), int(network[-1])).map(type(network[0]))
    ),
    st.ip_addresses(),
    st.integers(2**125, 2**126 - 1).map(IPv6Address),
)


def _microsoft() -> AntiSSRFPolicy:
    return AntiSSRFPolicy(PolicyConfigOptions.EXTERNAL_ONLY_LATEST)


@settings(max_examples=400, deadline=None)
@given(ADDRESSES)
@example(IPv4Address("255.255.255.255"))
def test_microsofts_table_and_ours_agree(address: Address) -> None:
    allowed = _microsoft()._is_ip_address_connection_allowed(IPAddress(str(address)))
    public = judge(address) is None
    if public:
        assert allowed
    elif isinstance(address, IPv4Address) or address in ip_network("2000::/3"):
        assert not allowed or is_metadata(address)


@pytest.mark.parametrize("address", _EDGES, ids=str)
def test_no_edge_of_a_range_slips_past_requests_hardened(address: Address) -> None:
    if judge(address) is None:
        assert get_ip_address(str(address), 80, allow_loopback=False)[0] == address


@settings(max_examples=200, deadline=None)
@given(ADDRESSES)
def test_requests_hardened_refuses_nothing_that_we_call_public(address: Address) -> None:
    try:
        get_ip_address(str(address), 80, allow_loopback=False)
    except InvalidIPAddress:
        assert judge(address)
