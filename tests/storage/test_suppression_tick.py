"""The tick that ends windows and mutes, as beat sends it."""

from __future__ import annotations

from sqlalchemy import Engine, text

_ROWS = """
INSERT INTO services (uuid, name, every_s) SELECT gen_random_uuid(), 'job-' || n, 60 FROM generate_series(1, 600) n;
INSERT INTO service_states (service_id, status, due_at) SELECT id, 'down', now() + interval '1 day' FROM services;
INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)
     SELECT id, name, 'p3', '{missed}', now(), now() FROM services;
INSERT INTO windows (name, starts_at, ends_at, selector, due_at, created_by)
     SELECT kind, now() - interval '1 hour', now() - interval '1 minute', '{"services": ["job-1*"]}',
            now() - interval '1 minute', 'shell:test' FROM unnest(ARRAY['one', 'two']) kind;
INSERT INTO mutes (service_id, reason, created_by, created_at, ends_at, due_at)
     SELECT id, 'known', 'shell:test', now() - interval '1 hour', now() - interval '1 minute', now() - interval '1 minute'
       FROM services WHERE name NOT LIKE 'job-1%';
"""


def test_the_tick_ends_what_is_over_and_wakes_what_fails(engine: Engine, here: None) -> None:
    from medic_tasks.app import app
    from medic_tasks.suppression import sweep_suppression

    (entry,) = [e for e in app.conf.beat_schedule.values() if e["task"] == "medic.sweep.suppression"]
    assert entry["options"]["queue"] == "medic.system"
    assert "medic_tasks.suppression" in app.conf.imports
    with engine.begin() as connection:
        connection.execute(text(_ROWS))
        mutes = connection.execute(text("SELECT count(*) FROM mutes")).scalar_one()
    assert sweep_suppression() == f"ended {mutes} mutes, moved 2 windows"
    assert sweep_suppression() == "ended 0 mutes, moved 0 windows"
    with engine.connect() as connection:
        due = connection.execute(
            text("SELECT count(*) FROM service_states WHERE due_at <= now()")
        ).scalar_one()
        ends = connection.execute(
            text("SELECT bool_and(ended_at = ends_at AND ended_by = 'medic:medic') FROM mutes")
        ).scalar_one()
    assert (due, ends) == (600, True)
