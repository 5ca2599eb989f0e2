"""What a WSGI server loads: `medic_api.wsgi:app`.

A wrong setting stops the start here, with one line.  A database that is down does not: the API comes up and
answers 503 until it is back.
"""

from __future__ import annotations

import gc
import sys
from multiprocessing.util import Finalize

from apiflask import APIFlask

from medic.db import make_engine
from medic.default_route import keep_default_route
from medic.errors import Misconfigured
from medic.group_commit import GroupCommit
from medic.settings import current
from medic.startup import check
from medic.telemetry.instrumentation import instrument_clients
from medic.telemetry.logs import configure_logging
from medic.telemetry.traces import configure_tracing
from medic_api.app import create_app

EX_CONFIG = 78
"""Exit code of a wrong configuration (sysexits.h)."""


def start() -> APIFlask:
    """This process's application, from its environment."""
    try:
        settings = current()
        configure_logging(settings, "api")
        configure_tracing(settings, "api")
        instrument_clients()
        engine = make_engine(
            settings.need_database_url(), pool_size=settings.database_pool_size, component="medic-api"
        )
        check(settings, engine)
        keep_default_route(settings, engine)
        made = create_app(settings, engine=engine)
    except Misconfigured as error:
        sys.stderr.write(f"medic: {error}\n")
        raise SystemExit(EX_CONFIG) from None
    _listen(made.extensions["medic"].heartbeats)
    # What is here now stays for good; a full collection that walked it all would hold up requests for it.
    gc.collect()
    gc.freeze()
    return made


def _listen(heartbeats: GroupCommit) -> None:
    """This process hears from now on, and says so when it stops.

    The server runs its workers by `multiprocessing`, whose processes end without `atexit`; its finalizers run in both.
    """
    heartbeats.listen()
    Finalize(None, heartbeats.close, exitpriority=10)


app = start()
