"""Medic's processes, started without waiting and killed without warning."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.waiting import eventually

QUEUES = {
    "steps": "medic.steps,medic.scripts,medic.housekeeping,medic.deliveries",
    "lone": "medic.steps,medic.scripts",
    "system": "medic.system",
}


@dataclass
class Member:
    """A process in a group of its own; ``name`` is never used again, so that the database tells the dead."""

    role: str
    name: str
    process: subprocess.Popen[bytes]


@dataclass
class Crew:
    environ: dict[str, str]
    log: Path
    members: dict[str, Member] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    _count: int = 0

    def start(self, role: str, *, concurrency: int = 1) -> Member:
        """``role``: steps, lone (a worker of one process), system or beat."""
        self._count += 1
        name = f"{role}-{self._count:03d}"
        arguments = ["beat"]
        if role in QUEUES:
            arguments = [
                "worker",
                "--name",
                name,
                "--queues",
                QUEUES[role],
                "--concurrency",
                str(concurrency),
            ]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medic", *arguments],
                env=os.environ | self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        made = self.members[name] = Member(role, name, process)
        return made

    def ready(self, *, within: float = 90) -> None:
        """Every worker has shown that it lives."""
        run = Path(self.environ["MEDIC_RUN_DIR"])

        def all_live() -> bool:
            for member in self.members.values():
                assert member.process.poll() is None, self.said()[-3000:]
            return all(
                list(run.glob(f"{name}*.alive"))
                for name, member in self.members.items()
                if member.role in QUEUES
            )

        eventually(all_live, within=within)

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members.values() if member.role == role]

    def kill(self, member: Member) -> None:
        """SIGKILL, the whole group."""
        del self.members[member.name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(member.process.pid, signal.SIGKILL)
        member.process.wait()
        self.dead.append(member.name)

    def kill_one_child(self, member: Member) -> None:
        """SIGKILL of one process of the pool; its parent lives."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(member.process.pid).children()
            if children:
                children[0].kill()

    def signal(self, member: Member, number: signal.Signals) -> None:
        os.killpg(member.process.pid, number)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        for member in list(self.members.values()):
            self.kill(member)
