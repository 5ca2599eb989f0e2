"""`medic run`: a job under the eyes of Medic.

The job comes first: it is started before anything is read or sent, and no trouble of ours stops it, fails it
or changes its exit code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from medic.client.address import find_address
from medic.client.courier import Courier
from medic.client.heartbeat import Heartbeat, clock, last_of, new_id
from medic.client.launch import NotStarted, launch, let_go_of_streams, open_standard_streams
from medic.client.naming import name_of
from medic.client.notices import Notice, StderrNotices, say
from medic.client.relay import Relay, start_relay
from medic.client.report import RunReport
from medic.client.spool import Spool, default_folder
from medic.client.watch import TIMED_OUT, HeldSignals, watch
from medic.errors import Invalid, MedicError
from medic.times import parse_duration


class Seconds(click.ParamType[float]):
    """A duration, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value).total_seconds()
        except Invalid as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to run, and how."""

    command: Sequence[str]
    service: str
    keep_output: bool
    limit: float | None
    patience: float


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--service", metavar="NAME", help="Whose run it is; else MEDIC_SERVICE, else made from CMD.")
@click.option("--url", metavar="URL", help="The server; else MEDIC_BASE_URL, else that of ./.medic.")
@click.option(
    "--key", metavar="KEY",
    help="The API key, or @FILE to keep it out of the list of processes; else MEDIC_API_KEY"
    " or MEDIC_API_KEY_FILE, else that of ./.medic.",
)  # fmt: skip
@click.option("--timeout", "limit", type=Seconds(), help="Stop the job after this time, and exit with 124.")
@click.option(
    "--patience", type=Seconds(), default="10s", show_default=True,
    help="How long to try to reach Medic once the job is over; then the signal waits on disk.",
)  # fmt: skip
@click.option(
    "--no-output", is_flag=True, help="Do not send the end of the output; the job keeps its terminal."
)
@click.option(
    "--spool-dir", type=click.Path(path_type=Path),
    help="Where signals wait while Medic is away; else MEDIC_SPOOL_DIR, else the user's state folder.",
)  # fmt: skip
@click.argument("command", metavar="[--] CMD [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    service: str | None, url: str | None, key: str | None, limit: float | None, patience: float,
    no_output: bool, spool_dir: Path | None, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Run CMD and tell Medic of its start, its end, how long it took and how it ended.

    The exit code is the job's: 128 + N when signal N killed it, 127 when there is no such command, 126 when
    it cannot be executed. TERM, INT, HUP, QUIT, USR1 and USR2 are passed on to the job.

    Its output passes through unchanged; the last 10 kB go to Medic. For that the job writes to a pipe, also
    on a terminal, as it does under cron; with --no-output it keeps what it would have without us.

    A job without a name is called as its program or script: backup for /opt/backup.sh --all.

    The job never waits for Medic. What cannot be sent waits on disk, and any later run sends it.
    """
    named = service or os.environ.get("MEDIC_SERVICE") or ""
    tell = StderrNotices()
    wish = Wish(command, named or name_of(command), not no_output, limit, patience)
    report = RunReport(lambda: _courier(tell, url=url, key=key, folder=spool_dir))
    if not named and tell.is_terminal:
        say(f"this is a run of the service {wish.service}; --service names another.")
    # Past the interpreter's own end, where a thread that still sends could turn the exit code into another.
    os._exit(run_job(wish, report))


def run_job(wish: Wish, report: RunReport) -> int:
    """Run the job, report it, and return the exit code."""
    open_standard_streams()
    signals = HeldSignals()
    relay = _relay() if wish.keep_output else None
    run_id, began_at, began = new_id(), clock(), time.monotonic()
    notes = []
    try:
        job = launch(
            wish.command,
            stdout=relay.stdout if relay else None,
            stderr=relay.stderr if relay else None,
            blocked=signals.before,
        )
    except NotStarted as error:
        say(str(error))
        exit_code = error.exit_code
        notes.append(str(error))
        _let_go(relay)
    else:
        _let_go(relay)
        _harmless(let_go_of_streams)
        _harmless(lambda: report.start(Heartbeat(wish.service, "start", began_at, run_id=run_id)))
        if watch(job, signals, limit=wish.limit):
            notes.append(f"The job was stopped after {wish.limit:g} s, its --timeout.")
            say(notes[-1])
        assert job.exit_code is not None
        exit_code = TIMED_OUT if notes else job.exit_code
    duration = time.monotonic() - began
    ended_at = clock()

    def finish() -> None:
        signals.call(report.hurry)
        output = _collect(relay)
        report.finish(
            Heartbeat(
                wish.service, "fail" if exit_code else "complete", ended_at, run_id=run_id,
                duration_ms=int(duration * 1000), exit_code=exit_code, message=_message(output, notes),
            ),
            patience=wish.patience,
        )  # fmt: skip

    _harmless(finish)
    return exit_code


def _message(output: bytes, notes: Sequence[str]) -> str | None:
    """The end of the output, and below it what we have to say."""
    return last_of("\n".join([last_of(output), *notes]).lstrip("\n")) or None


def _courier(tell: StderrNotices, *, url: str | None, key: str | None, folder: Path | None) -> Courier:
    folder = folder or default_folder(os.environ)
    try:
        address = find_address(os.environ, url=url, key=key)
    except MedicError as error:
        address = None
        tell(Notice.NO_SERVER, f"the run is not reported: {error}")
    return Courier(address, Spool(folder) if folder else None, tell)


def _relay() -> Relay | None:
    try:
        return start_relay()
    except OSError as error:
        say(f"the output is not kept: {error.strerror}.")
        return None


def _collect(relay: Relay | None) -> bytes:
    try:
        return relay.collect() if relay else b""
    except OSError:
        return b""


def _let_go(relay: Relay | None) -> None:
    if relay is not None:
        relay.let_go()


def _harmless(work: Callable[[], None]) -> None:
    """Whatever goes wrong with us is no business of the job."""
    with suppress(Exception):
        work()
