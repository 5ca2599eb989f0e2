"""The demo as people run it: a process that tells the whole story, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medic.cli.demo import demo_environ
from medic.cli.demo_scene import playbook
from medic.playbook.grammar import parse
from medic.settings import Settings
from medic.steps import load_types
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
STORY = (
    r"A Medic of its own runs at http://127\.0\.0\.1:\d+",
    r"The service web is watched",
    r"The playbook restart-web is stored",
    r"web beats: \d+ heartbeats are stored, it is up",
    r"web falls silent",
    r"Alert \d+ is open for web, reason: missed",
    r"The playbook restart-web runs for alert \d+",
    r"restart \(webhook\): completed",
    r"settle \(wait\): completed",
    r"verify \(condition\): completed",
    r"execution: completed",
)
IN_ANY_ORDER = (r"web beats again", r"Alert \d+ is closed: recovered")


class Demo:
    """A running demo, and what it said so far."""

    def __init__(self, temporary: Path) -> None:
        # A Medic that is configured here must not be touched: a demo that reads this could not start.
        environ = os.environ | {
            "TMPDIR": str(temporary),
            "MEDIC_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medic", "demo"],
            cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.said.extend(iter(lines.readline, ""))

    def text(self) -> str:
        return "".join(self.said)

    def end(self, *, within: float) -> int:
        code = self.process.wait(timeout=within)
        self._reader.join(timeout=5)
        return code


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(timeout=30)


def test_the_demo_tells_the_whole_story_and_leaves_nothing(demo: Demo, tmp_path: Path) -> None:
    code = demo.end(within=90)
    assert code == 0, demo.text()
    assert re.search(".*".join(STORY), demo.text(), re.DOTALL), demo.text()
    for line in IN_ANY_ORDER:
        assert re.search(line, demo.text()), demo.text()
    assert "\x1b" not in demo.text(), "a pipe gets plain lines"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_cleans_up(demo: Demo, tmp_path: Path) -> None:
    eventually(lambda: "A Medic of its own runs" in demo.text() or demo.process.poll() is not None, within=60)
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(within=45) == 130, demo.text()
    assert "Interrupted." in demo.text()
    assert list(tmp_path.iterdir()) == []


def test_the_demo_reads_nothing_of_a_medic_that_is_configured_here() -> None:
    ours = {str(info.alias): "x" for info in Settings.model_fields.values()} | {
        "MEDIC_SECRETS_KEY_FILE": "/x"
    }
    environ = demo_environ(ours | {"PATH": "/bin"}, "127.0.0.1:1")
    settings = Settings.from_env(environ)
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.allowed_webhook_hosts == ("127.0.0.1:1",)
    assert environ["PATH"] == "/bin"
    assert "x" not in environ.values()


def test_the_playbook_of_the_demo_is_valid_without_a_warning() -> None:
    parsed = parse(playbook("127.0.0.1:8080"), load_types())
    assert [step.type for step in parsed.playbook.steps] == ["webhook", "wait", "condition"]
    assert parsed.warnings == ()
