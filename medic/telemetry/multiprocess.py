"""Where the processes of one entry (an API and its workers, a worker and its pool) share their metrics.

prometheus_client decides at its first import whether it shares, so this module does not import it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare_multiprocess(directory: Path | None = None) -> Path:
    """Share metrics between this process and those it starts.  Call it first thing, before any metric is imported.

    :param directory: one for this entry alone, on a local disk; processes that see each other's pids may
        share it.  ``None``: a temporary one, removed when this process ends.  A parent's choice, in the
        environment, wins over both.
    :return: the directory.
    :raises RuntimeError: when prometheus_client was imported before.
    """
    inherited = os.environ.get(VARIABLE)
    if "prometheus_client" in sys.modules and not inherited:
        raise RuntimeError("prepare_multiprocess must run before prometheus_client is imported")
    if inherited:
        directory = Path(inherited)
    elif directory is None:
        directory = Path(tempfile.mkdtemp(prefix="medic-metrics-"))
        atexit.register(_remove, directory, os.getpid())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(directory)
    return directory


def shared_directory() -> Path | None:
    """The directory, if this process shares its metrics."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a fork that runs its parent's exit functions
        shutil.rmtree(directory, ignore_errors=True)
