"""/: one live page; it reads the API with the key that its reader gives it."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import render_template

from medic_api.guard import OPEN, guard

bp = APIBlueprint("console", __name__, enable_openapi=False)


@bp.get("/")
@guard(scope=OPEN, rate="docs")
def live_page() -> str:
    return render_template("console.html")
