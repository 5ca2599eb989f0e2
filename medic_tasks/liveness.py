"""Liveness files: a process that works touches its file; one that is stuck does not.

A worker touches it from the heartbeat that its consumer loop sends, so a wedged loop (a half-open
connection to the broker) lets it grow old.  `medic doctor --worker` reads the age.
"""

from __future__ import annotations

from medic import settings as settings_
from medic.liveness import folder


def mark_alive(name: str) -> None:
    """Touch the file of this process; a folder that is not writable must not stop it from working."""
    path = folder(settings_.current()) / f"{name}.alive"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return
