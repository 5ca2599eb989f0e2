"""What MEDIC_ALLOWED_WEBHOOK_HOSTS opens, and what nothing opens."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from medic.egress import allow_list
from medic.egress.allowlist import AllowList
from medic.egress.endpoints import own_endpoints
from medic.errors import Misconfigured
from medic.settings import Settings


def reachable(allow: AllowList, host: str, port: int, address: str) -> bool:
    if allow.refuse_host(host, port):
        return False
    return allow.refuse_address(host, port, ip_address(address)) is None


@pytest.mark.parametrize(
    ("entries", "host", "port", "address", "open_"),
    [
        # unset: the public internet on three ports
        ("", "example.com", 443, "8.8.8.8", True),
        ("", "example.com", 8443, "8.8.8.8", True),
        ("", "example.com", 22, "8.8.8.8", False),
        ("", "example.com", 443, "10.0.0.1", False),
        ("", "localhost", 80, "127.0.0.1", False),
        ("", "a.localhost", 80, "8.8.8.8", False),
        # an exact host: every port, whatever it resolves to; nothing else is open
        ("ops.example", "ops.example", 9000, "10.0.0.1", True),
        ("OPS.Example.", "ops.example", 80, "127.0.0.1", True),
        ("ops.example", "a.ops.example", 80, "10.0.0.1", False),
        ("ops.example", "xops.example", 80, "8.8.8.8", False),
        ("ops.example", "example.com", 443, "8.8.8.8", False),
        ("localhost", "localhost", 8080, "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", 8080, "127.0.0.1", True),
        ("127.0.0.1", "2130706433", 8080, "127.0.0.1", False),
        ("[::1]:8080", "::1", 8080, "::1", True),
        ("::1", "::1", 9, "::1", True),
        ("bücher.example", "xn--bcher-kva.example", 80, "8.8.8.8", True),
        # a host on one port
        ("ops.example:9000", "ops.example", 9000, "10.0.0.1", True),
        ("ops.example:9000", "ops.example", 80, "10.0.0.1", False),
        # *.suffix: public and private-use, no loopback or link-local
        ("*.corp.example", "a.b.corp.example", 9000, "10.0.0.1", True),
        ("*.corp.example", "a.corp.example", 80, "8.8.8.8", True),
        ("*.corp.example", "a.corp.example", 80, "fd00::1", True),
        ("*.corp.example", "a.corp.example", 80, "127.0.0.1", False),
        ("*.corp.example", "a.corp.example", 80, "169.254.1.1", False),
        ("*.corp.example", "corp.example", 80, "10.0.0.1", False),
        ("*.corp.example", "evilcorp.example", 80, "10.0.0.1", False),
        ("*.corp.example:90", "a.corp.example", 80, "10.0.0.1", False),
        # a network on one port
        ("10.0.0.0/8:8080", "anything.example", 8080, "10.1.2.3", True),
        ("10.0.0.0/8:8080", "anything.example", 80, "10.1.2.3", False),
        ("10.0.0.0/8:8080", "anything.example", 8080, "11.0.0.1", False),
        ("10.0.0.0/8:8080", "anything.example", 8080, "::ffff:10.1.2.3", False),
        ("[fd00::]/8:80", "anything.example", 80, "fd00::5", True),
        ("fd00::/8:80", "anything.example", 80, "fd00::5", True),
        ("127.0.0.0/8:80", "localhost", 80, "127.0.0.1", True),
        # the star keeps the public internet
        ("*,ops.example", "example.com", 443, "8.8.8.8", True),
        ("*,ops.example", "example.com", 443, "10.0.0.1", False),
        ("*,ops.example", "ops.example", 443, "10.0.0.1", True),
        ("*,10.0.0.0/8:9000", "example.com", 9000, "8.8.8.8", False),
        ("*:9000", "example.com", 9000, "8.8.8.8", True),
        ("*:9000", "example.com", 443, "8.8.8.8", False),
        # nothing opens a metadata address
        ("metadata.example", "metadata.example", 80, "169.254.169.254", False),
        ("metadata.example", "metadata.example", 80, "::ffff:169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", 80, "169.254.169.254", False),
        ("0.0.0.0/0:80", "a.example", 80, "169.254.169.254", False),
        ("::/0:80", "a.example", 80, "fd00:ec2::254", False),
        ("*.example", "a.example", 80, "100.100.100.200", False),
    ],
)
def test_an_entry_opens_what_it_names(entries: str, host: str, port: int, address: str, open_: bool) -> None:
    allow = AllowList.parse([word for word in entries.split(",") if word])
    assert reachable(allow, host, port, address) is open_


@pytest.mark.parametrize(
    "entry",
    ["http://ops.example", "ops.example/path", "10.0.0.1/8:80", "10.0.0.0/33:80", "a b", "", "ops:0",
     "ops:70000", "ops:", "ops:x", ":80", "*.", "**", "*x.example", "a.*.example", "300.1.1.1", "127.1", "u@h", "h?x",
     "h#x", "[::1", "::1]:80", "[::g]:80", "[]"],
)  # fmt: skip
def test_a_wrong_entry_stops_the_start_and_is_named_by_its_place(entry: str) -> None:
    with pytest.raises(Misconfigured, match=r"MEDIC_ALLOWED_WEBHOOK_HOSTS: entry 2 ") as caught:
        AllowList.parse(["ok.example", entry])
    assert len(entry) < 4 or entry not in str(caught.value)


def test_a_network_without_a_port_is_told_what_it_needs() -> None:
    with pytest.raises(Misconfigured, match="needs a port, as"):
        AllowList.parse(["10.0.0.0/8"])


def test_the_database_and_the_broker_stay_closed_whatever_is_listed() -> None:
    found = allow_list(
        Settings.from_env(
            {
                "MEDIC_DATABASE_URL": "postgresql://u:p%40@db.internal/medic",
                "REDIS_URL": "redis://:pw@127.0.0.1:6390/0",
                "MEDIC_ALLOWED_WEBHOOK_HOSTS": "db.internal, 127.0.0.1, 10.0.0.0/8:5432",
            }
        )
    )
    assert found.refuse_host("db.internal", 5432)
    assert found.refuse_host("db.internal", 80) is None
    assert found.refuse_host("127.0.0.1", 6390)
    assert found.closed_hosts(5432) == {"db.internal"}
    ours = frozenset({ip_address("10.0.0.9")})
    assert found.refuse_address("x", 5432, ip_address("10.0.0.9"), closed=ours)
    assert found.refuse_address("x", 5432, ip_address("10.0.0.8"), closed=ours) is None


def test_own_endpoints_are_read_from_every_shape_of_url() -> None:
    urls = [
        "postgresql+psycopg2://u:p@h1,h2:5433/db", "postgresql:///db?host=/tmp/socket", "redis+socket:///tmp/x.sock",
        "rediss://u:p@[::1]:7000/1", "redis://Cache", "postgresql://u:a/b@h3/db",
    ]  # fmt: skip
    assert own_endpoints(urls) == {("h1", 5432), ("h2", 5433), ("::1", 7000), ("cache", 6379), ("h3", 5432)}
    assert own_endpoints(urls[1:3]) == frozenset()
