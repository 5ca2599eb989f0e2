"""/openapi.json and /docs: the API's document, and Swagger UI with assets of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apiflask import APIBlueprint, APIFlask
from flask import Response, abort, current_app, render_template, send_from_directory
from swagger_ui_bundle import swagger_ui_path

from medic_api.guard import OPEN, guard

ASSETS = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})

bp = APIBlueprint("docs", __name__, enable_openapi=False)


@bp.get("/openapi.json")
@guard(scope=OPEN, rate="docs")
def document() -> Any:
    app = current_app
    assert isinstance(app, APIFlask)
    return app.json.response(app.spec)


@bp.get("/docs")
@guard(scope=OPEN, rate="docs")
def page() -> str:
    return render_template("docs.html")


@bp.get("/docs/assets/<asset>")
@guard(scope=OPEN, rate="docs")
def show_asset(asset: str) -> Response:
    if asset not in ASSETS:
        abort(404)
    return send_from_directory(Path(str(swagger_ui_path)), asset, max_age=86_400)
