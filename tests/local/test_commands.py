"""The command line's root, and the commands of the processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from medic.cli import LazyGroup, main
from medic.cli.processes import (
    api_arguments,
    beat_arguments,
    flower_arguments,
    flower_environ,
    parse_queues,
    worker_arguments,
)
from medic.cli.up import first_heartbeat
from medic.errors import Conflict, Misconfigured
from medic.local import components
from medic.local.stack import Stack
from medic.settings import Settings
from medic.telemetry import GRANIAN_LOGS

ROOT = Path(__file__).resolve().parents[2]
URLS = {"MEDIC_DATABASE_URL": "postgresql://u:hunter2@db/x", "REDIS_URL": "redis://:hunter2@broker/0"}


def medic(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    ours = ("MEDIC_", "REDIS_", "DATABASE_", "DB_", "PG_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-m", "medic", *arguments],
        env={**clean, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_wrong_setting_is_one_line_and_exit_78() -> None:
    done = medic("api", PORT="eighty")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("medic: PORT: ")
    assert done.stderr.count("\n") == 1


def test_a_process_without_a_database_says_what_to_set() -> None:
    done = medic("worker", "--name", "a", "--queues", "medic.steps", REDIS_URL="redis://localhost/0")
    assert done.returncode == 78
    assert done.stderr.startswith("medic: No database: set MEDIC_DATABASE_URL")


def test_a_wrong_use_is_exit_2() -> None:
    done = medic("worker", "--name", "a", "--queues", "medic.step")
    assert done.returncode == 2
    assert "medic.step is no queue; there are medic.system, medic.steps" in done.stderr
    assert medic("nonsense").returncode == 2


def test_up_on_a_folder_that_it_cannot_use_says_so() -> None:
    done = medic("up", "--data-dir", "/proc/medic", "--port", "0", "--flower-port", "0")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("medic: The data folder /proc/medic cannot be written")
    assert done.stderr.count("\n") == 1


def test_a_taken_port_stops_the_start_before_anything_runs_on_it(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        stack = Stack(tmp_path, URLS, ports={"api": port, "flower": 0})
        with pytest.raises(Conflict, match=rf"Port {port} .* move it with PORT or --port"):
            stack.start()
    assert not (tmp_path / "keys").exists()
    # The folder is free again for the next try.
    stack.servers.folder.open()
    stack.servers.folder.close()


def test_a_command_is_imported_only_when_it_is_called() -> None:
    code = (
        "import sys; from medic.cli import main\n"
        "main(['worker', '--help'], standalone_mode=False)\n"
        "print([name for name in ('medic.local.stack', 'sqlalchemy', 'celery') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_in_the_table_exists() -> None:
    assert isinstance(main, LazyGroup)
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None, name
        assert command.name == name


@pytest.mark.parametrize(("error", "code"), [(Conflict("in use"), 1), (Misconfigured("wrong"), 78)])
def test_medics_errors_are_one_line_on_stderr(error: Exception, code: int) -> None:
    group = LazyGroup(name="x", lazy={})

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"medic: {error}\n")


def test_queues_are_those_of_the_broker() -> None:
    from medic import broker

    named = (broker.SYSTEM, broker.STEPS, broker.SCRIPTS, broker.DELIVERIES, broker.HOUSEKEEPING)
    assert named == components.QUEUES
    assert parse_queues(" medic.steps, medic.scripts,medic.steps") == ("medic.steps", "medic.scripts")
    with pytest.raises(click.BadParameter, match="none is no queue"):
        parse_queues(" , ")


def test_no_secret_stands_in_the_arguments() -> None:
    environ = URLS | {"MEDIC_FLOWER_BASIC_AUTH": "ops:hunter2", "MEDIC_API_KEY_PEPPER": "hunter2" * 6}
    settings = Settings.from_env(environ)
    commands = [
        api_arguments(settings),
        beat_arguments(settings),
        flower_arguments(),
        worker_arguments(settings, name="a", queues=("medic.steps",), concurrency=2, pool="prefork"),
        *(list(components.program(name, settings, environ).argv) for name in components.COMPONENTS),
    ]
    assert "hunter2" not in str(commands)


def test_the_server_of_the_api_is_told_to_log_as_medic_does() -> None:
    arguments = api_arguments(Settings.from_env(URLS))
    assert arguments[arguments.index("--log-config") + 1] == str(GRANIAN_LOGS)
    assert GRANIAN_LOGS.is_file()


def test_flower_without_a_password_stays_on_loopback() -> None:
    open_to_all = {"MEDIC_HOST": "0.0.0.0"}
    alone = flower_environ(Settings.from_env(open_to_all))
    assert (alone["FLOWER_ADDRESS"], alone["FLOWER_UNAUTHENTICATED_API"]) == ("127.0.0.1", "true")
    guarded = flower_environ(Settings.from_env(open_to_all | {"MEDIC_FLOWER_BASIC_AUTH": "ops:secret"}))
    assert (guarded["FLOWER_ADDRESS"], guarded["FLOWER_BASIC_AUTH"]) == ("0.0.0.0", "ops:secret")
    assert "FLOWER_UNAUTHENTICATED_API" not in guarded
    assert alone["FLOWER_READ_ONLY"] == guarded["FLOWER_READ_ONLY"] == "true"


def test_flower_remembers_where_it_can_write(tmp_path: Path) -> None:
    there = flower_environ(Settings.from_env({"MEDIC_RUN_DIR": str(tmp_path)}))
    assert there["FLOWER_DB"] == str(tmp_path / "flower.db")
    missing = flower_environ(Settings.from_env({"MEDIC_RUN_DIR": str(tmp_path / "none")}))
    assert "FLOWER_PERSISTENT" not in missing


def test_the_drain_of_a_worker_outlasts_the_longest_step() -> None:
    settings = Settings.from_env({"MEDIC_STEP_TIMEOUT_CAP": "10m"})
    assert components.program("steps", settings, {}).stop_within == 630


def test_the_stop_goes_from_beat_to_the_servers() -> None:
    settings = Settings.from_env({})
    stages = {name: components.program(name, settings, {}).stage for name in components.COMPONENTS}
    order = ["beat", "system", "deliveries", "steps", "flower", "api"]
    assert sorted(stages, key=lambda name: stages[name]) == order
    assert stages["system"] == stages["deliveries"] == stages["steps"]
    assert max(stages.values()) < 80


def test_a_worker_is_ready_when_its_liveness_file_is_new(tmp_path: Path) -> None:
    """At a log level that hides Celery's own line."""
    (tmp_path / "steps.alive").touch()
    os.utime(tmp_path / "steps.alive", (1_000, 1_000))
    probe = components.program("steps", Settings.from_env({"MEDIC_RUN_DIR": str(tmp_path)}), {}).probe
    assert probe is not None
    assert not probe()
    later = (tmp_path / "steps.alive").stat().st_atime + 10_000_000_000
    os.utime(tmp_path / "steps.alive", (later, later))
    assert probe()


def test_the_first_heartbeat_names_the_keys_file_as_a_shell_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "it's mine" / "admin.key"
    path.parent.mkdir()
    path.write_text("mdk_x\n")
    command = first_heartbeat("http://127.0.0.1:1", path).replace("curl", "printf '%s\\n'", 1)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=10)
    assert done.stdout.splitlines() == [
        "-X", "POST", "http://127.0.0.1:1/v1/heartbeats?create=1&every=5m&grace=1m", "-H", "Authorization: Bearer mdk_x",
        "-H", "Content-Type: application/json", "-d", '{"service":"demo"}',
    ]  # fmt: skip
