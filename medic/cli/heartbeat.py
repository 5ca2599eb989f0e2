"""`medic heartbeat`: one signal of a service."""

from __future__ import annotations

import click

from medic.cli.remote import NAME, Remote, connected


@click.command()
@click.argument("name", type=NAME)
@click.option(
    "--status", type=click.Choice(["ok", "start", "complete", "fail", "log"]), help="What it says; ok if not given."
)  # fmt: skip
@click.option(
    "--exit-code", type=click.IntRange(-32_768, 32_767), help="Of a job: other than 0 is a failure."
)
@click.option("--message", help="Kept beside it, up to 10 kB.")
@click.option("--run-id", help="Which run of the job it belongs to.")
@click.option("--duration-ms", type=click.IntRange(0), help="How long the run took.")
@click.option("--id", "client_id", help="Stored at most once, so that sending it again is harmless.")
@click.option("--create", is_flag=True, help="Make the service where it is unknown.")
@click.option("--every", help="With --create: how often it beats, as 5m.")
@click.option("--grace", help="With --create: how late it may be, as 1m.")
@connected
def heartbeat(
    remote: Remote, name: str, status: str | None, exit_code: int | None, message: str | None,
    run_id: str | None, duration_ms: int | None, client_id: str | None, create: bool, every: str | None,
    grace: str | None,
) -> None:  # fmt: skip
    """Send a heartbeat of the service NAME.

    It is stored when the command ends with 0.
    """
    if not create and (every or grace):
        raise click.UsageError("--every and --grace go with --create.")
    body = {
        "service": name, "status": status, "exit_code": exit_code, "message": message, "run_id": run_id,
        "duration_ms": duration_ms, "id": client_id,
    }  # fmt: skip
    reply = remote.client.call(
        "POST",
        "/v1/heartbeats",
        params={"create": "1" if create else None, "every": every, "grace": grace},
        json={key: value for key, value in body.items() if value is not None},
    ).body
    seen = "was stored before" if reply["repeat"] else "stored"
    cut = "; its message was cut to 10 kB" if reply["message_cut"] else ""
    remote.say(f"Heartbeat {reply['id']} of {name} {seen}{cut}.", reply)
