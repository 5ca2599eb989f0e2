"""Flower logs through Medic's one handler, like every other process."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from typing import Any


def test_flower_writes_this_format_only(
    start: Callable[..., Any], environ: dict[str, str], free_port: int, eventually: Callable[..., Any]
) -> None:
    process = start(
        "", "flower", module="medic",
        **environ | {"MEDIC_LOG_FORMAT": "json", "MEDIC_LOG_LEVEL": "INFO", "MEDIC_FLOWER_PORT": str(free_port),
                     "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, process.stdout.read()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/healthcheck", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    eventually(answers)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    written = [json.loads(line) for line in output.splitlines()]
    assert written
    assert {line["Resource"]["medic.component"] for line in written} == {"flower"}
    assert any(line["InstrumentationScope"]["Name"].startswith("flower") for line in written)
