"""A message is a hint: doubled, lost, old or late ones change nothing but latency."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import redis

from medic import broker
from medic.executions import due
from medic.executions.dispatch import dispatch, links, publish, raise_epoch
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def two_steps(url: str) -> str:
    return f"""
name: two
steps:
  - {{name: first, type: webhook, url: "{url}/first"}}
  - {{name: second, type: webhook, url: "{url}/second"}}
"""


def is_idle(client: redis.Redis) -> bool:
    return int(client.llen(broker.STEPS)) + int(client.hlen("unacked")) == 0


def test_a_message_that_comes_twice_has_one_effect(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two")
    raw = broker_client.lindex(broker.STEPS, 0)
    assert raw is not None
    for _ in range(3):
        broker_client.lpush(broker.STEPS, raw)
    own.steps(concurrency=2)
    assert house.ended(execution) == "completed"
    eventually(lambda: is_idle(broker_client))
    assert sorted(request.path for request in outside.requests) == ["/first", "/second"]
    assert len(house.attempts(execution)) == 2


def test_a_lost_message_is_sent_again_under_the_same_epoch(
    house: House, worker: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two", publish=False)
    # Raised and committed, and then the process died: nothing was ever sent.
    assert house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=0)) is not None
    assert house.sweep().seen == 0
    house.make_due(execution)
    assert house.sweep().published == 1
    assert house.ended(execution) == "completed"
    assert [attempt["task_id"] for attempt in house.attempts(execution)] == [
        f"{execution}.s00.e1.r2",
        f"{execution}.s01.e1.r2",
    ]
    assert len(outside.requests) == 2


def test_the_grace_doubles_with_each_message_that_stays_out_and_a_claim_resets_it(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two")
    graces = []
    for _ in range(5):
        broker_client.delete(broker.STEPS)
        row = house.row(execution)
        graces.append(round((row["due_at"] - row["dispatched_at"]).total_seconds()))
        house.make_due(execution)
        assert house.sweep().published == 1
    assert graces == [60, 120, 240, 480, 600]
    own.steps()
    assert house.ended(execution) == "completed"
    assert house.row(execution)["redispatches"] == 0
    assert house.attempts(execution)[0]["task_id"].endswith(".e1.r6")


def test_a_row_is_left_alone_while_its_queue_is_behind(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    early, late = house.start("two"), house.start("two")
    for execution in (early, late):
        house.make_due(execution)
    swept = house.sweep()
    assert (swept.seen, swept.published) == (2, 0)
    assert broker_client.llen(broker.STEPS) == 2
    assert house.row(late)["redispatches"] == 0
    own.steps()
    assert house.ended(late) == "completed"


def test_a_message_of_an_old_epoch_is_fenced_and_its_chain_is_cut(
    house: House, worker: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two", publish=False)
    old = house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=0))
    assert old is not None
    assert house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=1)) is not None
    assert publish(house.engine, old)
    eventually(lambda: is_idle(broker_client))
    assert (outside.requests, house.attempts(execution)) == ([], [])
    assert dispatch(house.engine, execution_id=execution, epoch=2)
    assert house.ended(execution) == "completed"
    assert {attempt["epoch"] for attempt in house.attempts(execution)} == {3}


def test_a_message_whose_step_is_done_lets_the_next_link_go(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two", publish=False)
    ready = house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=0))
    assert ready is not None
    # The worker recorded the first step and died before Celery published the second.
    house.run("UPDATE executions SET next_step = 1 WHERE id = :id", id=execution)
    house.run("UPDATE execution_steps SET state = 'completed' WHERE position = 0")
    chain = links(ready)
    assert broker.publish_chain(chain, root_id=str(execution), parent_id=None)
    own.steps()
    assert house.ended(execution) == "completed"
    assert [request.path for request in outside.requests] == ["/second"]


def test_two_sweeps_at_once_send_one_message(house: House, worker: Workers, outside: Recorder) -> None:
    house.playbook(two_steps(outside.url))
    executions = [house.start("two", publish=False) for _ in range(8)]
    barrier = threading.Barrier(2)

    def sweep() -> due.Swept:
        barrier.wait(10)
        return house.sweep()

    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(sweep), pool.submit(sweep)]]
    assert sum(swept.published for swept in done) == len(executions)
    for execution in executions:
        assert house.ended(execution) == "completed"
        assert house.row(execution)["epoch"] == 1
    assert len(outside.requests) == 2 * len(executions)


def test_two_who_start_the_same_row_send_one_message(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.playbook(two_steps(outside.url))
    execution = house.start("two", publish=False)
    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(lambda _: dispatch(house.engine, execution_id=execution, epoch=0), range(4)))
    assert sorted(sent) == [False, False, False, True]
    assert house.ended(execution) == "completed"


def test_a_row_that_cannot_be_looked_at_keeps_no_other_from_going_on(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.playbook(two_steps(outside.url))
    house.playbook(two_steps(outside.url).replace("name: two", "name: broken"))
    broken, whole = house.start("broken", publish=False), house.start("two", publish=False)
    house.run(
        "UPDATE playbook_versions v SET source = replace(source, 'webhook', 'teleport')"
        "  FROM executions e WHERE e.id = :id AND v.playbook_id = e.playbook_id",
        id=broken,
    )
    house.make_due(broken)
    swept = house.sweep()
    assert (swept.set_aside, swept.published) == (1, 1)
    assert house.ended(whole) == "completed"
    assert house.sweep().seen == 0


def test_a_request_that_waits_is_answered_before_its_worker_takes_the_next_message(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis
) -> None:
    go_on = threading.Event()

    def hold(_: Received) -> tuple[int, bytes]:
        assert go_on.wait(20)
        return 200, b"{}"

    outside.answer = hold
    house.playbook(two_steps(outside.url))
    own.steps(concurrency=1)
    first = house.start("two")
    eventually(lambda: outside.requests)
    second = house.start("two")
    # Not prefetched: it stays in the queue, where another worker, and KEDA, can see it.
    eventually(lambda: broker_client.llen(broker.STEPS) == 1)
    go_on.set()
    assert [house.ended(execution) for execution in (first, second)] == ["completed"] * 2
