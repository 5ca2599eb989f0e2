"""The whole story on real processes: silence, alert, playbook, recovery."""

from __future__ import annotations

from sqlalchemy.orm import Session

from medic import services
from medic.db import database_now
from medic.service_policy import Policy
from tests.recorder import Received, Recorder
from tests.tasks.house import ACTOR, House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def test_silence_opens_an_alert_the_playbook_heals_and_the_heartbeat_closes_both(
    house: House, own: Workers, outside: Recorder
) -> None:
    house.playbook(f"""
name: restart-worker
trigger: {{service_pattern: "worker-*", consecutive_failures: 1}}
steps:
  - name: restart
    type: webhook
    url: "{outside.url}/restart"
    body: {{service: "${{SERVICE_NAME}}", alert: "${{ALERT_ID}}"}}
  - {{name: verify, type: condition, check: heartbeat_received, timeout: 1m}}
""")

    def watch(session: Session) -> None:
        policy = Policy(every_s=2, grace_s=1)
        for name in ("worker-1", "other-1"):
            services.create(session, name=name, policy=policy, actor=ACTOR, now=database_now(session))

    house.do(watch)
    house.beat("worker-1")
    own.steps()
    own.system()
    alert = eventually(lambda: house.rows("SELECT * FROM alerts WHERE service_name = 'worker-1'"))[0]
    assert alert["opened_at"] <= alert["detected_at"]
    restart: Received = eventually(lambda: outside.of("/restart"))[0]
    assert restart.json == {"service": "worker-1", "alert": alert["id"]}
    execution = eventually(lambda: house.rows("SELECT * FROM executions"))[0]
    assert execution["started_by"].startswith("trigger:")
    house.comes_to(execution["id"], "waiting")

    def healed() -> bool:
        house.beat("worker-1")  # it is alive again, and stays so
        return house.state(execution["id"]) == "completed"

    eventually(healed)
    closed = house.rows("SELECT resolution, resolved_at FROM alerts WHERE id = :id", id=alert["id"])[0]
    assert closed["resolution"] == "recovered"
    assert closed["resolved_at"] is not None
    # Once per alert, and only where the pattern fits.
    assert len(outside.requests) == len(house.rows("SELECT 1 FROM executions")) == 1
    assert len(house.rows("SELECT 1 FROM alerts WHERE service_name = 'other-1' AND resolved_at IS NULL")) == 1
