"""Where workers and beat show that they live, and how old a sign may be."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medic.settings import Settings

MAX_AGE_S = 120.0
"""A worker's consumer loop sends a heartbeat every 2 s; this is far above any pause of its own."""


def folder(settings: Settings) -> Path:
    """The folder of liveness files: MEDIC_RUN_DIR, else one of this user in the temporary folder."""
    return settings.run_dir or Path(tempfile.gettempdir()) / f"medic-run-{os.getuid()}"


def ages(settings: Settings, kind: str, *, now: float) -> dict[str, float]:
    """Seconds since each process of a kind last showed that it lives.

    :param kind: ``worker`` or ``beat``.
    :param now: seconds since the epoch, of this machine, which also wrote the files.
    """
    found = {}
    for path in sorted(folder(settings).glob("*.alive")):
        if (path.name == "beat.alive") == (kind == "beat"):
            try:
                found[path.stem] = max(0.0, now - path.stat().st_mtime)
            except FileNotFoundError:
                continue
    return found
