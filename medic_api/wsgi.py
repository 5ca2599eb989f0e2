"""What a WSGI server loads: `medic_api.wsgi:app`.

A wrong setting stops the start here, with one line.  A database that is down does not: the API comes up and
answers 503 until it is back.
"""

from __future__ import annotations

import sys

from apiflask import APIFlask

from medic.db import make_engine
from medic.errors import Misconfigured
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
        return create_app(settings, engine=engine)
    except Misconfigured as error:
        sys.stderr.write(f"medic: {error}\n")
        raise SystemExit(EX_CONFIG) from None


app = start()
