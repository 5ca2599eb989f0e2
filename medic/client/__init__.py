"""Medic's client for Python programs and jobs, of the standard library alone.

::

    from medic.client import Beat, Medic

    medic = Medic()                                  # MEDIC_BASE_URL, MEDIC_API_KEY
    with medic.run("nightly-report") as run:
        run.metric("rows", write_report())

    @medic.job("import")
    def import_orders() -> None: ...

    with Beat(medic, "worker-1", every=30):
        serve_forever()

Nothing here raises into the program because Medic is away, slow or wrongly set up: what could not be sent is
kept on disk (`spool`), and sent later with the time at which it happened.

program, beat                   what programs use: `Medic`, `Run`, `Beat`
address, heartbeat, exchange    whom to tell, what, and one try at it
spool, loads, courier, report   what waits on disk; by the request; who takes it away; the signals of one run
notices                         what is worth a word, and how it is said
naming, launch, relay, watch    the job behind `medic run`: its name, its start, its output, its signals
"""

from medic.client.beat import Beat
from medic.client.program import Medic, Run

__all__ = ["Beat", "Medic", "Run"]
