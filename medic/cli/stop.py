"""`medic stop-all` and `medic resume-all`: the stop switch."""

from __future__ import annotations

import click

from medic.cli.remote import Remote, connected


@click.command("stop-all")
@click.option("--reason", required=True, help="Why; everybody sees it.")
@connected
def stop_all(remote: Remote, reason: str) -> None:
    """Let no playbook start or go on; steps that run now still end."""
    stop = remote.client.call("POST", "/v1/stop", json={"reason": reason}).body
    remote.say("Stopped: nothing starts until `medic resume-all`.", stop)


@click.command("resume-all")
@connected
def resume_all(remote: Remote) -> None:
    """Let playbooks run again."""
    remote.client.call("DELETE", "/v1/stop")
    remote.say("Playbooks run again.", {"stopped": False})
