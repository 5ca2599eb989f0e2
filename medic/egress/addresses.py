"""What an IP address is: public, or why not.  Pure.

Only addresses that a resolver answered are judged, never the text of a URL: `getaddrinfo` reads
``0177.1``, ``0x7f.1`` and ``2130706433`` as loopback, and no parser of ours would keep up with it.

``is_global`` of the standard library alone is not enough: it calls NAT64, 6to4, translated and
compatible forms of private addresses public, as well as site-local, SRv6 and multicast.  So IPv6 is
public only inside 2000::/3, where none of these forms live but the ones listed here.  Sources: the IANA
special-purpose registries (RFC 6890), RFC 6052 and RFC 8215 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_METADATA = frozenset(
    int(ip_address(text))
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, Oracle, DigitalOcean
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "168.63.129.16",  # Azure WireServer; a public address by number
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud, older images
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS pod identity over IPv6
        "fd20:ce::254",  # Google over IPv6
    )
)

_NAMED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignment"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "protocol assignment"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("2620:4f:8000::/48", "AS112"),
    )
)

_PRIVATE_USE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")


def judge(address: Address) -> str | None:
    """Tell why an address is not on the public internet; None when it is."""
    if is_metadata(address):
        return "metadata service"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "carries a zone"
    for network, reason in _NAMED:
        if address.version == network.version and address in network:
            return reason
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "outside 2000::/3"
    return None if address.is_global else "not global"


def is_metadata(address: Address) -> bool:
    """Whether the address is a cloud's metadata service, also inside an IPv6 form that embeds it.

    The last 32 bits are where mapped, compatible, translated, ISATAP and NAT64 /96 forms keep the IPv4
    address; a native address that ends in the same bits by chance is refused with them.
    """
    number = int(address)
    if number in _METADATA:
        return True
    if isinstance(address, IPv4Address):
        return False
    embedded = {number & 0xFFFF_FFFF}
    if address.sixtofour is not None:
        embedded.add(int(address.sixtofour))
    if address.teredo is not None:
        embedded.update(int(part) for part in address.teredo)
    if address in _NAT64_LOCAL:  # RFC 6052 §2.2: a /48 prefix splits the address around bits 64 to 71
        embedded.add((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    return not embedded.isdisjoint(_METADATA)


def is_private_use(address: Address) -> bool:
    """Whether the address belongs to somebody's own network: RFC 1918, RFC 6598 or RFC 4193."""
    return any(address.version == network.version and address in network for network in _PRIVATE_USE)
