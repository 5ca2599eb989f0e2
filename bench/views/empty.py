"""The floor: a Flask view that does nothing."""

from flask import Flask, Response

app = Flask(__name__)


@app.post("/v1/heartbeats")
def accept() -> Response:
    return Response(status=202)
