"""Worker processes of tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import eventually


@dataclass
class Workers:
    """Processes of Medic; each leads a group of its own, so that it can be killed whole."""

    environ: dict[str, str]
    log: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def steps(self, name: str = "steps", *, concurrency: int = 1) -> subprocess.Popen[bytes]:
        queues = "medic.steps,medic.scripts,medic.housekeeping"
        return self._start(
            name, "worker", "--name", name, "--queues", queues, "--concurrency", str(concurrency)
        )

    def deliveries(self, name: str = "deliveries", *, concurrency: int = 1) -> subprocess.Popen[bytes]:
        return self._start(
            name, "worker", "--name", name, "--queues", "medic.deliveries", "--concurrency", str(concurrency)
        )

    def system(self) -> None:
        """The sweeps, and beat, which asks for them."""
        self._start("system", "worker", "--name", "system", "--queues", "medic.system", "--concurrency", "1")
        self.beat()

    def beat(self) -> subprocess.Popen[bytes]:
        return self._start("beat", "beat")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        run = Path(self.environ["MEDIC_RUN_DIR"])
        for old in run.glob(f"{name}*.alive"):
            old.unlink()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medic", *arguments],
                env=os.environ | self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        eventually(lambda: list(run.glob(f"{name}*.alive")) or process.poll() is not None, within=60)
        assert process.poll() is None, self.log.read_text()[-3000:]
        return process

    def alive(self) -> bool:
        return any(process.poll() is None for process in self.running)

    def said(self) -> str:
        """Everything that they logged."""
        return self.log.read_text()

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """SIGKILL, the whole group."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                self.kill(process)
        self.running.clear()
