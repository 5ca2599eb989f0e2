"""/metrics, for Prometheus."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from flask import current_app as app

from medic.census import census
from medic.queues import Queues
from medic.telemetry.exposition import render_metrics, scrape_registry
from medic_api.guard import guard
from medic_api.guard import services as shared

bp = APIBlueprint("metrics", __name__, tag="Operations")


@bp.get("/metrics")
@guard(scope="metrics:read", rate="metrics")
@bp.doc(
    summary="Metrics in Prometheus' format",
    description="Needs no key with `MEDIC_METRICS_PUBLIC=true`.",
    responses={200: "Metrics."},
    extensions={"x-text": "text/plain"},
)
def show_metrics() -> Response:
    settings, engine, waiting = shared().settings, shared().engine, _queues()
    body, content_type = render_metrics(scrape_registry(settings, lambda: census(engine, waiting)))
    return Response(body, content_type=content_type)


def _queues() -> Queues | None:
    """This application's look at the broker."""
    settings = shared().settings
    if settings.redis_url is None:
        return None
    found: Queues | None = app.extensions.get("medic.queues")
    if found is None:
        found = app.extensions["medic.queues"] = Queues(
            settings.need_redis_url(), prefix=settings.broker_prefix
        )
    return found
