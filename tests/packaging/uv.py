"""uv, as the lock is written with it, asking the package index as an install does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LOCKED = (
    "--require-hashes",
    "--no-deps",
    "--no-build-isolation",
    "--only-binary=:all:",
    "--no-binary=oncalendar",
)
"""What `make` and the Dockerfile say to pip: hashes only, wheels only, but for the one package that has none."""

_AWAY = re.compile(r"error sending request|client error|dns error|Could not connect|timed out", re.IGNORECASE)


def uv(*arguments: str | Path) -> str:
    """Run uv; its words.  Where the index cannot be reached, the test is skipped and says so."""
    program = Path(sys.executable).with_name("uv")
    environ = os.environ | {"UV_SYSTEM_CERTS": "1", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    environ.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        [program, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0 and _AWAY.search(done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return done.stderr
