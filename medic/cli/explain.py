"""How `medic alert explain` and `medic service explain` look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from medic.cli.output import Columns, print_fields, print_table
from medic.cli.remote import Remote

RULES = (("RULE", "rule"), ("HOLDS", "holds"), ("BECAUSE", "because"))
HEARTBEATS = (
    ("ARRIVED", "received_at"),
    ("OF", "event_at"),
    ("KIND", "kind"),
    ("RUN", "run_id"),
    ("EXIT", "exit_code"),
)
REFUSED = (("SINCE", "since"), ("UNTIL", "until"), ("FOR", "kind"), ("COUNT", "count"))
UNHEARD = (("FROM", "start"), ("TO", "end"))
RUNS = (
    ("RUN", "run_id"),
    ("BEGAN", "started_at"),
    ("OVERRUNS", "overruns_at"),
    ("LOST", "lost_at"),
    ("OVER", "overrun"),
)
TRANSITIONS = (("AT", "at"), ("SEEN", "recorded_at"), ("WHAT", "kind"), ("REASON", "reason"), ("BY", "actor"))
DELIVERIES = (
    ("ID", "id"), ("WHAT", "kind"), ("TARGET", "target"), ("ROUTE", "route"), ("LEVEL", "level"), ("STATE", "state"),
    ("TRIES", "tries"), ("MADE", "created_at"), ("ENDED", "finished_at"), ("ERROR", "error"),
)  # fmt: skip
EXECUTIONS = (
    ("ID", "id"),
    ("PLAYBOOK", "playbook"),
    ("STATE", "state"),
    ("MODE", "mode"),
    ("STARTED", "created_at"),
)


def show_service_explained(remote: Remote, found: Mapping[str, Any]) -> None:
    """The verdict first, then what it was made of."""
    if remote.as_json:
        remote.show(found)
        return
    policy = found["policy"]
    print_fields(
        {
            "service": found["service"],
            "at": found["at"],
            "status": found["status"],
            "alert": found["alert"],
            "schedule": f"{policy['schedule']}, grace {policy['grace']}",
            "policy since": policy["since"],
            "last success": found["last_success_at"],
            "last failure": found["last_failure_at"],
            "failures": f"{found['failures']} in a row (alert at {policy['failure_threshold']})",
            "deadline": found["deadline"],
            "grace ends": found["grace_ends_at"],
            "next change": found["next_change_at"],
        }
    )
    if not found["exact"]:
        click.echo("What came before the signals below is summed up by a success.", err=True)
    _section("Rules", found["rules"], RULES)
    _section("Open runs", found["runs"], RUNS)
    _section("Last signals", found["heartbeats"], HEARTBEATS)
    _section("Medic could not hear", found["unheard"], UNHEARD)
    _section("Refused heartbeats", found["refused"], REFUSED)


def show_alert_explained(remote: Remote, found: Mapping[str, Any]) -> None:
    """Why it opened, who was told, and what started."""
    if remote.as_json:
        remote.show(found)
        return
    alert = found["alert"]
    shown = ("id", "service", "priority", "reasons", "opened_at", "detected_at", "resolved_at", "resolution")
    print_fields({name: alert[name] for name in shown})
    _section("Why it opened", found["opening"], RULES)
    _section("Who was told", found["telling"], RULES)
    _section("Messages", found["deliveries"], DELIVERIES)
    _section("What happened", found["transitions"], TRANSITIONS)
    for trigger in found["triggers"]:
        verdict = "for it" if trigger["applies"] else "not for it"
        _section(f"Playbook {trigger['playbook']} ({trigger['mode']}): {verdict}", trigger["rules"], RULES)
    _section("Executions", found["executions"], EXECUTIONS)
    _section("Signals around its opening", found["heartbeats"], HEARTBEATS)
    _section("Medic could not hear", found["unheard"], UNHEARD)
    _section("Refused heartbeats", found["refused"], REFUSED)


def _section(title: str, items: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    if items:
        click.echo(f"\n{title}")
        print_table(items, columns, empty="")
