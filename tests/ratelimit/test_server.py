"""The limiter on a real server: exact over threads and processes, and calm when the server is not."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any
from uuid import uuid4

import pytest
import redis
from structlog.testing import capture_logs

from medic.ratelimit import Limiter
from medic.ratelimit.choice import build
from medic.ratelimit.circuit import PAUSE
from medic.ratelimit.decision import WINDOW_US
from medic.ratelimit.policy import policies_from
from medic.ratelimit.redis_store import RedisStore
from medic.settings import Settings

SETTINGS = Settings.from_env({})
POLICIES = policies_from(SETTINGS)
EXACT = {"management": 300, "trigger": 10, "health": 1000, "metrics": 100, "docs": 60}


@pytest.fixture(params=["redis", "memory"])
def limiter(request: pytest.FixtureRequest) -> Limiter:
    store = request.getfixturevalue("store") if request.param == "redis" else None
    return Limiter(POLICIES, store)


@pytest.mark.parametrize(("rate_class", "limit"), EXACT.items())
def test_the_call_after_the_limit_is_refused_exactly(limiter: Limiter, rate_class: str, limit: int) -> None:
    subject = uuid4().hex
    start = time.monotonic()
    for n in range(limit):
        decision = limiter.hit(rate_class, subject, now=time.monotonic())
        assert decision.allowed
        assert (decision.limit, decision.remaining) == (limit, limit - n - 1)
    refused = limiter.hit(rate_class, subject, now=time.monotonic())
    took = time.monotonic() - start
    assert not refused.allowed
    assert refused.remaining == 0
    assert 60 - took - 0.1 <= refused.retry_after <= 60
    assert refused.retry_after <= refused.reset_after <= 60
    assert limiter.hit(rate_class, uuid4().hex, now=time.monotonic()).allowed


def test_classes_and_subjects_are_counted_apart(limiter: Limiter) -> None:
    subject = uuid4().hex
    assert limiter.hit("trigger", subject, cost=10, now=1.0).allowed
    assert not limiter.hit("trigger", subject, now=1.0).allowed
    assert limiter.hit("docs", subject, now=1.0).allowed
    assert limiter.hit("trigger", subject + "x", now=1.0).allowed


def test_threads_together_get_the_limit_and_not_one_more(limiter: Limiter) -> None:
    subject = uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: limiter.hit("metrics", subject, now=5.0).allowed, range(250))
        assert sum(answers) == 100


def test_threads_on_the_heartbeat_path_stay_inside_the_bound(limiter: Limiter) -> None:
    subject = uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: limiter.hit("heartbeat", subject, now=5.0).allowed, range(400)))
    # The server's clock runs on while the test does: two calls a second are given back.
    assert 60 <= sum(answers) <= 60 + 7 + 10


@pytest.mark.parametrize("subject", ["", "ä" * 10_000, "\udcff\udc00", "a b\r\nc:*"])
def test_no_subject_can_break_the_limiter(limiter: Limiter, subject: str) -> None:
    assert limiter.hit("docs", subject + uuid4().hex, now=1.0).allowed
    assert limiter.hit("ping", subject + uuid4().hex, now=1.0).allowed


def test_wrong_arguments_are_refused(limiter: Limiter) -> None:
    with pytest.raises(ValueError, match="cost"):
        limiter.hit("docs", "x", cost=0, now=1.0)
    with pytest.raises(ValueError, match="nonsense"):
        limiter.hit("nonsense", "x", now=1.0)


PROCESS = """
import sys, time
from medic.ratelimit import Limiter
from medic.ratelimit.policy import policies_from
from medic.ratelimit.redis_store import RedisStore
from medic.settings import Settings
limiter = Limiter(policies_from(Settings.from_env({})), RedisStore.at(sys.argv[1], pool_size=2))
print(sum(limiter.hit("management", sys.argv[2], now=time.monotonic()).allowed for _ in range(200)))
limiter.close()
"""


def test_processes_share_one_exact_window(redis_url: str) -> None:
    subject = uuid4().hex
    children = [
        subprocess.Popen([sys.executable, "-c", PROCESS, redis_url, subject], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert sum(int(child.communicate(timeout=30)[0]) for child in children) == 300


FORK = """
import os, sys, threading
from medic.ratelimit import Limiter
from medic.ratelimit.policy import policies_from
from medic.ratelimit.redis_store import RedisStore
from medic.settings import Settings
limiter = Limiter(policies_from(Settings.from_env({})), RedisStore.at(sys.argv[1], pool_size=2))
subject = sys.argv[2]
assert limiter.hit("trigger", subject, cost=4, now=1.0).remaining == 6
assert limiter.hit("heartbeat", subject, now=1.0).allowed
taken, let_go = threading.Event(), threading.Event()
def hold():
    with limiter._buckets._lock, limiter._circuit._lock, limiter._logs._lock:
        taken.set()
        let_go.wait(20)
holder = threading.Thread(target=hold)
holder.start()
taken.wait()
child = os.fork()
if child == 0:
    ok = limiter.hit("trigger", subject, cost=3, now=1.0).remaining == 3
    ok = ok and len(limiter._buckets) == 0 and limiter.hit("heartbeat", subject, cost=20, now=1.0).allowed
    os._exit(0 if ok else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
let_go.set()
holder.join()
assert limiter.hit("trigger", subject, cost=3, now=1.0).remaining == 0
limiter.close()
sys.exit(status)
"""


def test_a_fork_with_held_locks_leaves_both_sides_working(redis_url: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, redis_url, uuid4().hex]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


def test_every_key_expires_holds_a_hash_only_and_stays_small(valkey: Any) -> None:
    store = RedisStore.at(valkey.url, pool_size=1)
    client: Any = store._client
    limiter = Limiter(POLICIES, store)
    subject = "team-" + uuid4().hex
    for _ in range(1000):
        limiter.hit("health", subject, now=time.monotonic())
    limiter.hit("heartbeat", subject, cost=30, now=1.0)
    keys = set(client.scan_iter())
    assert len(keys) == 2
    for key in keys:
        assert subject.encode() not in key
        assert 0 < client.pttl(key) <= 61_000
        assert client.memory_usage(key) < 20_000
    store.close()


def test_entries_leave_the_window_when_their_time_is_over(store: RedisStore) -> None:
    policy, key = POLICIES[next(iter(POLICIES))], f"medic:rl:test:{uuid4().hex}"
    policy = type(policy)(policy.name, 2, 2, exact=True)
    start = 1_795_000_000_000_000
    assert store.window(key, policy, cost=1, at=start).allowed
    assert store.window(key, policy, cost=1, at=start + 10).allowed
    refused = store.window(key, policy, cost=1, at=start + 20)
    assert (refused.allowed, refused.retry_after) == (False, WINDOW_US - 20)
    assert store.window(key, policy, cost=1, at=start + WINDOW_US).allowed
    assert not store.window(key, policy, cost=1, at=start + WINDOW_US + 9).allowed
    assert store.window(key, policy, cost=1, at=start + WINDOW_US + 10).allowed


def test_redis_may_go_away_and_come_back(valkey: Any) -> None:
    limiter = Limiter(POLICIES, RedisStore.at(valkey.url, pool_size=4))
    now = 1000.0
    assert limiter.is_healthy()
    assert limiter.hit("trigger", "key", cost=10, now=now).allowed
    with capture_logs() as lines:
        valkey.stop()
        assert not limiter.is_healthy()
        # A window of this process's own: shared knowledge is gone, the limit is not.
        answers = [limiter.hit("trigger", "key", now=now + n * PAUSE / 4).allowed for n in range(12)]
        assert answers == [True] * 10 + [False] * 2
        beats = [limiter.hit("heartbeat", "service", now=now + 20).allowed for _ in range(80)]
        assert answers.count(True) == 10
        assert sum(beats) == 60
        assert limiter.degraded is True
        assert [line["log_level"] for line in lines] == ["warning"]
        valkey.start()
        assert limiter.hit("trigger", "key", cost=10, now=now + 20 + PAUSE).allowed
        assert limiter.backend == "redis"
        assert limiter.is_healthy()
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    limiter.close()


def test_many_threads_share_few_connections_and_none_goes_without(valkey: Any) -> None:
    chosen = Settings.from_env(
        {"REDIS_URL": valkey.url, "REDIS_POOL_SIZE": "3", "MEDIC_RATE_LIMITER_TYPE": "redis"}
    )
    limiter = build(chosen)
    subject = uuid4().hex
    with capture_logs() as lines, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: limiter.hit("management", subject, now=5.0).allowed, range(800)))
    assert sum(answers) == 300  # by the one shared window: nobody was sent to a local one
    assert lines == []
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        assert len(client.client_list()) == 3 + 1
    limiter.close()


def test_a_frozen_redis_costs_one_short_wait_and_then_none(valkey: Any) -> None:
    limiter = Limiter(POLICIES, RedisStore.at(valkey.url, pool_size=4))
    assert limiter.hit("docs", "address", now=1.0).allowed
    valkey.freeze()
    start = time.monotonic()
    with capture_logs() as lines:
        for _ in range(30):
            assert limiter.hit("docs", "address", now=2.0).allowed
    assert time.monotonic() - start < 1.0
    assert len(lines) == 1
    valkey.thaw()
    limiter.close()


def test_a_server_that_lost_its_scripts_gets_them_again(valkey: Any) -> None:
    limiter = Limiter(POLICIES, RedisStore.at(valkey.url, pool_size=1))
    assert limiter.hit("trigger", "key", cost=4, now=1.0).remaining == 6
    valkey.stop()
    valkey.start()
    with capture_logs() as lines:
        assert limiter.hit("trigger", "key", cost=4, now=1.0).remaining == 6
    assert lines == []
    limiter.close()


def test_a_local_decision_takes_microseconds_and_no_command(valkey: Any) -> None:
    store = RedisStore.at(valkey.url, pool_size=1)
    client: Any = store._client
    limiter = Limiter(POLICIES, store)
    took = []
    before = client.info("stats")["total_net_input_bytes"]
    for subject in [uuid4().hex for _ in range(2000)]:
        start = time.perf_counter()
        limiter.hit("heartbeat", subject, now=1.0)
        took.append(time.perf_counter() - start)
    # The INFO commands alone; one settlement a subject would send a quarter of a megabyte.
    assert client.info("stats")["total_net_input_bytes"] - before < 1_000
    # The median, since the machine is shared; a round trip takes ten times as long.
    assert median(took) < 50e-6
    store.close()
