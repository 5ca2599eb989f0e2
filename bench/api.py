"""The API under load, and what it is compared with, by the same server with the same flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import fill, load
from bench.load import Outcome, Plan
from bench.processes import Process, answers, free_port
from bench.stage import Database, Stage
from medic.cli.processes import api_arguments
from medic.settings import Settings
from medic.telemetry.multiprocess import VARIABLE

PATH = "/v1/heartbeats"


@dataclass(frozen=True, slots=True)
class Api:
    """A server that takes heartbeats."""

    name: str
    port: int
    process: Process
    key: str

    def request(self, service: str) -> str:
        """One heartbeat, as a client sends it."""
        return self.post(PATH, f'{{"service":"{service}"}}')

    def post(self, path: str, body: str) -> str:
        return load.render("POST", path, body=body, headers={"Authorization": f"Bearer {self.key}"})

    def load(
        self, services: Sequence[str], *, connections: int, seconds: float, warm_up: float = 0.5
    ) -> Outcome:
        """Heartbeats of these services in turn, as fast as they are answered."""
        requests = [self.request(service) for service in services]
        return load.run(
            [
                Plan(
                    port=self.port,
                    requests=requests,
                    connections=connections,
                    seconds=seconds,
                    warm_up=warm_up,
                )
            ]
        )[0]


@contextmanager
def serving(stage: Stage, database: Database, *names: str, workers: int | None = None) -> Iterator[list[Api]]:
    """Servers by name: ``medic`` as a user starts it; ``empty`` and ``naive`` of `bench.views`.

    :param workers: in place of the API's default number of processes.
    """
    key = fill.key(stage, database)
    with ExitStack() as stack:
        apis = []
        for name in names:
            port = free_port()
            environ = stage.environ(database) | {"PORT": str(port)}
            if workers is not None:
                environ["MEDIC_API_WORKERS"] = str(workers)
            arguments = ["-m", "medic", "api"]
            if name != "medic":
                # What `medic api` does before granian takes over.
                arguments = [
                    *api_arguments(Settings.from_env(_medic(environ)))[:-1],
                    f"bench.views.{name}:app",
                ]
                metrics = stage.folder / "metrics" / str(port)
                metrics.mkdir(parents=True)
                environ[VARIABLE] = str(metrics)
            process = stack.enter_context(stage.process(f"api-{name}", *arguments, environ=environ))
            process.await_(lambda port=port: answers(port, PATH))  # type: ignore[misc]
            apis.append(Api(name, port, process, key))
        yield apis


def _medic(environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.isupper()}
