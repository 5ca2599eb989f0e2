"""docker/compose.yaml, parsed: what waits for what, what each service is told, and what it may do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import medic
from medic.cli import main
from medic.cli.settings_table import variables
from medic.local.components import QUEUES
from medic.settings import Settings
from tests.packaging.dockerfile import ROOT

TEXT = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name not in {"postgres", "redis"}}
WORKERS = {name: service for name, service in OURS.items() if service["command"][0] == "worker"}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
FIXED = {"MEDIC_RUN_DIR", "MEDIC_WORKER_POOL"}
"""What .env does not steer here: folders are those of the image, and pools are told apart where they scale."""
KEYS = {"MEDIC_SECRETS_KEY", "MEDIC_API_KEY_PEPPER", "MEDIC_AUDIT_KEY"}


def told(service: dict[str, Any], environ: dict[str, str]) -> dict[str, str]:
    """A service's environment, with the variables of .env put in as Compose does."""
    return {
        name: VARIABLE.sub(lambda match: environ.get(match[1]) or match[3] or "", str(value))
        for name, value in service.get("environment", {}).items()
    }


def test_each_part_is_a_service_of_its_own() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "migrate", "api", "worker", "worker-system", "worker-deliveries", "worker-scripts",
        "beat", "flower",
    }  # fmt: skip
    assert {service["command"][0] for service in OURS.values()} == {
        "api",
        "worker",
        "beat",
        "flower",
        "migrate",
    }


@pytest.mark.parametrize("name", OURS)
def test_each_command_is_one_that_medic_knows(name: str) -> None:
    command = [*OURS[name]["command"], "--help"]
    assert CliRunner().invoke(main, command).exit_code == 0


def test_the_workers_share_all_queues_and_sweep_apart() -> None:
    queues = [service["command"][service["command"].index("--queues") + 1] for service in WORKERS.values()]
    assert sorted(",".join(queues).split(",")) == sorted(QUEUES)
    assert "medic.system" in queues
    assert "medic.scripts" in queues
    assert "medic.deliveries" in queues


def test_the_servers_keep_their_data_and_say_when_they_are_ready() -> None:
    postgres, redis = SERVICES["postgres"], SERVICES["redis"]
    assert (postgres["image"], redis["image"]) == ("postgres:15", "redis:7")
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert redis["volumes"] == ["redis:/data"]
    assert redis["command"] == ["redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    assert "pg_isready" in postgres["healthcheck"]["test"][1]
    assert "redis-cli ping" in redis["healthcheck"]["test"][1]
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) == used
    assert "ports" not in postgres | redis, "they are reached from inside only"


def test_everything_waits_until_what_it_needs_is_healthy() -> None:
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"] == {"postgres": healthy}
    for name, service in OURS.items():
        if name != "migrate":
            assert service["depends_on"] == {"postgres": healthy, "redis": healthy, "migrate": done}, name


def test_each_service_has_a_healthcheck_that_fits_it() -> None:
    assert "healthcheck" not in SERVICES["api"], "the image's own"
    assert SERVICES["migrate"]["healthcheck"] == {"disable": True}
    for service in WORKERS.values():
        assert service["healthcheck"]["test"] == ["CMD", "medic", "doctor", "--worker"]
    assert SERVICES["beat"]["healthcheck"]["test"] == ["CMD", "medic", "doctor", "--beat"]
    kind, python, flag, program = SERVICES["flower"]["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-c")
    compile(program, "flower's healthcheck", "exec")


def test_the_api_is_published_on_8080_and_flower_on_loopback() -> None:
    assert SERVICES["api"]["ports"] == ["${MEDIC_HOST:-0.0.0.0}:${PORT:-8080}:8080"]
    assert SERVICES["flower"]["ports"] == ["127.0.0.1:${MEDIC_FLOWER_PORT:-5555}:5555"]
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api", "flower"}


def test_one_image_runs_with_no_right_and_a_root_that_is_read_only() -> None:
    for name, service in OURS.items():
        assert service["image"] == f"medic:${{MEDIC_VERSION:-{medic.__version__}}}", name
        assert service["build"]["context"] == "..", name
        assert service["build"]["dockerfile"] == "docker/Dockerfile", name
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_scripts_reach_the_servers_and_nothing_else() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert SERVICES["worker-scripts"]["networks"] == ["data"]
    assert all("data" in service["networks"] for service in SERVICES.values())


def test_the_old_version_may_come_back_to_a_later_database() -> None:
    """Else its `migrate` fails for ever, and nothing starts that waits for it."""
    assert SERVICES["migrate"]["command"] == ["migrate", "--or-later"]


def test_a_worker_may_finish_what_runs() -> None:
    cap = Settings.from_env({}).step_timeout_cap
    for service in WORKERS.values():
        assert service["stop_grace_period"] == f"{cap + 30}s"


def test_no_file_must_exist_and_each_value_has_a_default_but_the_keys() -> None:
    assert "env_file" not in TEXT
    code = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    found = list(VARIABLE.finditer(code))
    assert code.replace("$$", "").count("$") == len(found)
    for match in found:
        assert match[2] == ("?" if match[1] in KEYS else "-"), match[0]
    assert {match[1] for match in found} == {variable.name for variable in variables()} - FIXED


@pytest.mark.parametrize("name", OURS)
def test_each_service_is_told_what_medic_understands(name: str) -> None:
    keys = dict.fromkeys(KEYS, "0" * 44)
    settings = Settings.from_env(told(OURS[name], keys))
    assert settings.need_database_url() == "postgresql+psycopg2://medic:medic@postgres:5432/medic"
    assert settings.need_redis_url() == "redis://redis:6379/0"
    assert (settings.environment, settings.version) == ("production", medic.__version__)
    unknown = set(OURS[name]["environment"]) - {variable.name for variable in variables()}
    assert not unknown


def test_the_database_is_made_as_medic_expects_it() -> None:
    given = {"DB_NAME": "beats", "PG_USER": "nurse", "PG_PASS": "p@ss"}
    made = told(SERVICES["postgres"], given)
    assert made == {"POSTGRES_DB": "beats", "POSTGRES_USER": "nurse", "POSTGRES_PASSWORD": "p@ss"}
    settings = Settings.from_env(told(SERVICES["migrate"], given))
    assert settings.need_database_url() == "postgresql+psycopg2://nurse:p%40ss@postgres:5432/beats"


def test_a_value_of_the_environment_file_reaches_the_processes() -> None:
    given = dict.fromkeys(KEYS, "0" * 44) | {"LOG_LEVEL": "DEBUG", "RATE_LIMIT_PING_REQUESTS": "7"}
    settings = Settings.from_env(told(SERVICES["api"], given))
    assert (settings.log_level, settings.rate_limit_ping) == ("DEBUG", 7)
    assert Settings.from_env(told(SERVICES["beat"], given)).log_level == "DEBUG"
    assert {name for name in KEYS if name in told(SERVICES["flower"], given)} == set()
