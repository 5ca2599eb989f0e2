"""/metrics, for Prometheus."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response

from medic.census import census
from medic.db import in_transaction
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
    engine = shared().engine
    body, content_type = render_metrics(
        scrape_registry(shared().settings, lambda: in_transaction(engine, census))
    )
    return Response(body, content_type=content_type)
