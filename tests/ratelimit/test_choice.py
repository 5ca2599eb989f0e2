"""MEDIC_RATE_LIMITER_TYPE and REDIS_URL."""

from __future__ import annotations

import pytest
from redis.connection import SSLConnection, UnixDomainSocketConnection
from structlog.testing import capture_logs

from medic.errors import Misconfigured
from medic.ratelimit import check, limiter_from
from medic.ratelimit.address import connection_options
from medic.ratelimit.choice import build
from medic.ratelimit.policy import RateClass, policies_from
from medic.ratelimit.redis_store import RedisStore
from medic.settings import Settings

URL = "redis://127.0.0.1:1/0"


def settings(**environ: str) -> Settings:
    return Settings.from_env(environ)


@pytest.mark.parametrize("word", ["redis", "REDIS", " Redis "])
def test_redis_without_a_url_stops_the_start(word: str) -> None:
    with pytest.raises(Misconfigured, match="REDIS_URL"):
        build(settings(MEDIC_RATE_LIMITER_TYPE=word))


@pytest.mark.parametrize(
    ("word", "url", "backend"),
    [
        ("redis", URL, "redis"),
        ("Memory", URL, "memory"),
        ("memory", "", "memory"),
        ("AUTO", URL, "redis"),
        ("auto", "", "memory"),
    ],
)
def test_one_info_line_names_the_choice(word: str, url: str, backend: str) -> None:
    with capture_logs() as lines:
        limiter = build(settings(MEDIC_RATE_LIMITER_TYPE=word, REDIS_URL=url))
    assert limiter.backend == backend
    assert [(line["log_level"], line["backend"]) for line in lines] == [("info", backend)]


def test_an_unknown_type_warns_and_means_memory() -> None:
    with capture_logs() as lines:
        limiter = build(settings(MEDIC_RATE_LIMITER_TYPE="memcached", REDIS_URL=URL))
    assert limiter.backend == "memory"
    assert [line["log_level"] for line in lines] == ["warning", "info"]


def test_the_limiter_may_have_a_redis_of_its_own() -> None:
    assert build(settings(MEDIC_RATE_LIMITER_TYPE="redis", MEDIC_LIMITER_REDIS_URL=URL)).backend == "redis"
    with pytest.raises(Misconfigured, match=r"^MEDIC_LIMITER_REDIS_URL: "):
        build(settings(REDIS_URL=URL, MEDIC_LIMITER_REDIS_URL="redis://a..b"))


def test_memory_does_not_read_the_url() -> None:
    assert build(settings(MEDIC_RATE_LIMITER_TYPE="memory", REDIS_URL="redis://a..b")).backend == "memory"


def test_looking_before_the_start_finds_the_same_and_says_nothing() -> None:
    with capture_logs() as lines:
        check(settings(MEDIC_RATE_LIMITER_TYPE="memcached"))
        check(settings(REDIS_URL=URL))
        for wrong in ({"MEDIC_RATE_LIMITER_TYPE": "redis"}, {"REDIS_URL": "redis://a..b"}):
            with pytest.raises(Misconfigured):
                check(settings(**wrong))
    assert lines == []


def test_the_same_settings_give_the_same_instance_and_one_line() -> None:
    with capture_logs() as lines:
        first = limiter_from(settings(MEDIC_ENVIRONMENT="test-of-the-cache"))
        again = limiter_from(settings(MEDIC_ENVIRONMENT="test-of-the-cache"))
    assert first is again
    assert len(lines) == 1


def test_the_limits_come_from_the_environment() -> None:
    names = ("HEARTBEAT", "PING", "MANAGEMENT", "TRIGGER", "HEALTH", "METRICS", "DOCS")
    given = {f"RATE_LIMIT_{name}_REQUESTS": str(40 + 4 * n) for n, name in enumerate(names)}
    policies = policies_from(settings(**given))
    for n, name in enumerate(names):
        assert policies[RateClass(name.lower())].limit == 40 + 4 * n


def test_the_limits_by_default() -> None:
    policies = policies_from(settings())
    assert {name.value: policy.limit for name, policy in policies.items() if policy.exact} == {
        "management": 300,
        "trigger": 10,
        "health": 1000,
        "metrics": 100,
        "docs": 60,
    }
    heartbeat = policies[RateClass.HEARTBEAT]
    assert (heartbeat.limit, heartbeat.burst) == (120, 60)
    key = policies[RateClass.HEARTBEAT_KEY]
    assert key.for_services(0).limit == 60
    assert key.for_services(1).limit == 90
    assert key.for_services(100).limit == 60 + 30 * 100


def test_kombus_form_of_a_unix_socket_is_understood() -> None:
    assert connection_options("redis+socket:///run/my%20app/r.sock?virtual_host=3") == {
        "connection_class": UnixDomainSocketConnection,
        "path": "/run/my app/r.sock",
        "db": 3,
    }
    options = connection_options("redis+socket://me:p%40ss@/run/r.sock")
    assert (options["username"], options["password"], options["db"]) == ("me", "p@ss", 0)


def test_tls_is_verified_and_options_of_the_broker_are_left_to_it() -> None:
    options = connection_options(
        "rediss://:pw@host:6380/2?ssl_cert_reqs=CERT_REQUIRED&socket_timeout=30&visibility_timeout=9"
    )
    assert options == {
        "connection_class": SSLConnection,
        "host": "host",
        "port": 6380,
        "db": 2,
        "password": "pw",
        "ssl_cert_reqs": "required",
    }


@pytest.mark.parametrize(
    "url",
    [
        "redis://secret:hunter2hunter2@host:port/0",
        "redis+socket://:hunter2hunter2@",
        "redis+socket:///x?virtual_host=hunter2hunter2",
        "rediss://host/0?ssl_cert_reqs=hunter2hunter2",
        "redis://:hunter2hunter2@[::1/0",
        "redis://:hunter2hunter2@a..b:6379/0",
        f"redis://:hunter2hunter2@{'a' * 64}.example:6379/0",
    ],
)
def test_a_url_that_cannot_be_read_stops_the_start_without_being_shown(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        RedisStore.at(url, pool_size=1)
    assert "REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
