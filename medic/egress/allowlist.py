"""Which hosts and addresses may be reached: the policy behind ``MEDIC_ALLOWED_WEBHOOK_HOSTS``.  Pure.

===================  =====================================================================
entry                opens
===================  =====================================================================
(none at all)        the public internet on ports 80, 443 and 8443
``*``                the same, besides what else is listed; ``*:9000`` on that port
``ops.example.com``  that host on every port, whatever it resolves to
``ops.internal:90``  that host on that port
``*.corp.example``   every name below, on public and private-use addresses; also with a port
``10.0.0.0/8:8080``  every host whose addresses all lie there, on that port
===================  =====================================================================

Nothing opens a metadata address, nor an endpoint in ``closed`` (Medic's own database and broker).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from medic.egress.addresses import Address, Network, is_metadata, is_private_use, judge
from medic.egress.urls import parse_target
from medic.errors import EgressRefused, Misconfigured

PUBLIC_PORTS = frozenset({80, 443, 8443})
_VARIABLE = "MEDIC_ALLOWED_WEBHOOK_HOSTS"

Endpoint = tuple[str, int]
_Listed = frozenset[tuple[str, int | None]]


@dataclass(frozen=True, slots=True)
class AllowList:
    """The parsed policy; without arguments, the public internet."""

    hosts: _Listed = frozenset()
    suffixes: _Listed = frozenset()
    networks: tuple[tuple[Network, int], ...] = ()
    public_ports: frozenset[int] = PUBLIC_PORTS
    closed: frozenset[Endpoint] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str], *, closed: Iterable[Endpoint] = ()) -> AllowList:
        """Read the entries.

        :param closed: (host, port) pairs that no entry opens.
        :raises Misconfigured: naming the entry by its place, never its text.
        """
        hosts: set[tuple[str, int | None]] = set()
        suffixes: set[tuple[str, int | None]] = set()
        networks: list[tuple[Network, int]] = []
        public: set[int] = set()
        words = [entry.strip() for entry in entries]
        for place, word in enumerate(words, start=1):
            try:
                name, port = _split_port(word)
                if "/" in name:
                    if port is None:
                        raise ValueError("needs a port, as 10.0.0.0/8:8080")
                    networks.append((ip_network(name.replace("[", "").replace("]", "")), port))
                elif name == "*":
                    public |= PUBLIC_PORTS if port is None else {port}
                elif name.startswith("*."):
                    suffixes.add((_host(name[2:]), port))
                else:
                    hosts.add((_host(name), port))
            except (ValueError, EgressRefused) as error:
                why = (
                    str(error)
                    if str(error).startswith("needs")
                    else "is no host, *.suffix, host:port or CIDR:port"
                )
                raise Misconfigured(f"{_VARIABLE}: entry {place} {why}") from None
        return cls(
            hosts=frozenset(hosts),
            suffixes=frozenset(suffixes),
            networks=tuple(networks),
            public_ports=frozenset(public) if words else PUBLIC_PORTS,
            closed=frozenset((host.lower().rstrip("."), port) for host, port in closed),
        )

    def refuse_host(self, host: str, port: int) -> str | None:
        """Judge before anything is resolved; None means that the addresses decide."""
        if (host, port) in self.closed:
            return "endpoint of Medic itself"
        if self._lists_host(host, port) or any(port == open_port for _, open_port in self.networks):
            return None
        if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 §6.3: always loopback
            return "loopback by name"
        if self._lists_suffix(host, port) or port in self.public_ports:
            return None
        return "port is not open" if self.public_ports else "host is not listed"

    def refuse_address(
        self, host: str, port: int, address: Address, *, closed: frozenset[Address] = frozenset()
    ) -> str | None:
        """Judge one address that ``host`` resolved to; None means that it may be connected to.

        :param closed: what `closed_hosts` of this port resolve to now.
        """
        if is_metadata(address):
            return "metadata service"
        if (
            address in closed
            or (str(address), port) in self.closed
            or (address.is_loopback and any(other.is_loopback for other in closed))
        ):
            return "endpoint of Medic itself"
        if self._lists_host(host, port):
            return None
        if any(
            port == open_port and address.version == network.version and address in network
            for network, open_port in self.networks
        ):
            return None
        reason = judge(address)
        if self._lists_suffix(host, port):
            return None if is_private_use(address) else reason
        if port in self.public_ports:
            return reason
        return reason or ("port is not open" if self.public_ports else "host is not listed")

    def closed_hosts(self, port: int) -> frozenset[str]:
        """Hosts that are closed on this port."""
        return frozenset(host for host, closed_port in self.closed if closed_port == port)

    def _lists_host(self, host: str, port: int) -> bool:
        return (host, None) in self.hosts or (host, port) in self.hosts

    def _lists_suffix(self, host: str, port: int) -> bool:
        return any(
            host.endswith(f".{suffix}") and open_port in {None, port} for suffix, open_port in self.suffixes
        )


def _split_port(word: str) -> tuple[str, int | None]:
    """Split ``name:port``; the colons of an IPv6 address are no port."""
    name, colon, tail = word.rpartition(":")
    bare_ipv6 = ":" in name and "/" not in name and not name.endswith("]")
    if not colon or bare_ipv6 or tail.endswith("]") or "/" in tail:
        return word, None
    if not (tail.isascii() and tail.isdigit() and 1 <= int(tail) <= 65_535):
        raise ValueError("port")
    return name, int(tail)


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return str(IPv6Address(text[1:-1]))
    if ":" in text:
        return str(IPv6Address(text))
    # Read as the host of a URL is read, so that international names compare equal.
    target = parse_target(f"http://{text}/")
    if "?" in text or "#" in text or not text:
        raise ValueError("host")
    if target.name.replace(".", "").isdigit():
        return str(ip_address(target.name))
    return target.name
