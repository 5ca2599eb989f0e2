"""No effect starts on a lease that is not surely held."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

import pytest

from medic.executions import claim as protocol
from medic.executions.claim import EFFECT_MARGIN, LEASE, Claim
from medic.executions.dispatch import raise_epoch
from medic.executions.due import Reach
from medic.executions.pinned import pinned
from medic.steps import load_types
from tests.recorder import Recorder
from tests.tasks.house import House


def claimed(house: House, url: str) -> Claim:
    house.playbook(f'name: one\nsteps:\n  - {{name: act, type: webhook, url: "{url}/act"}}\n')
    execution = house.start("one", publish=False)
    assert house.do(lambda s: raise_epoch(s, execution_id=execution, epoch=0)) is not None
    held = claim(house, execution, uuid4())
    assert held is not None
    return held


def claim(house: House, execution: UUID, owner: UUID) -> Claim | None:
    acting = [name for name, kind in load_types().items() if kind.acts]
    return house.do(
        lambda s: protocol.claim(
            s,
            execution_id=execution,
            position=0,
            epoch=1,
            owner=owner,
            task_id="t",
            worker="w",
            acting=acting,
        )
    )


def test_a_claim_that_finds_an_owner_is_fenced_and_its_own_can_be_read_back(
    house: House, outside: Recorder
) -> None:
    held = claimed(house, outside.url)
    assert claim(house, held.execution_id, uuid4()) is None
    again = house.do(
        lambda s: protocol.read_back(s, execution_id=held.execution_id, owner=held.owner, acting=["webhook"])
    )
    assert again is not None
    assert (again.execution_id, again.owner, again.variables) == (
        held.execution_id,
        held.owner,
        held.variables,
    )


def test_a_step_whose_lease_is_too_old_sends_nothing(house: House, outside: Recorder) -> None:
    from medic_tasks.act import Acting
    from medic_tasks.lease import Lease, LeaseLost

    held = claimed(house, outside.url)
    step = pinned(held.source).steps[0]
    stale = time.monotonic() - (LEASE - EFFECT_MARGIN).total_seconds()
    with Lease(house.engine, held, claimed_at=stale) as lease, pytest.raises(LeaseLost):
        Acting(house.engine, held, step, lease).run()
    assert outside.requests == []
    with Lease(house.engine, held, claimed_at=time.monotonic()) as lease:
        Acting(house.engine, held, step, lease).run()
    assert len(outside.requests) == 1


def test_leases_are_judged_only_after_a_whole_lease_without_a_gap() -> None:
    reach = Reach()
    for at in range(0, 30, 2):
        reach.mark(float(at))
        assert not reach.whole_lease(float(at), LEASE)
    reach.mark(30.0)
    assert reach.whole_lease(30.0, LEASE)
    reach.mark(30.0 + Reach.GAP + 0.1)
    assert not reach.whole_lease(45.0, LEASE)
