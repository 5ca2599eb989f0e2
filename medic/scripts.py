"""Registered scripts: only these run, by name and version."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from medic import audit
from medic.db import advisory_lock
from medic.errors import NotFound
from medic.models.playbooks import Script, ScriptVersion
from medic.steps.parameters import check_rules


def put(
    session: Session, *, name: str, interpreter: Literal["bash", "python"], content: str, parameters: dict[str, Any],
    network: bool, description: str, actor: audit.Actor, now: datetime,
) -> tuple[Script, ScriptVersion]:  # fmt: skip
    """Register a script, or a new version of it; the same text again makes none.

    :raises Invalid: its parameters' rules are wrong.
    """
    check_rules(parameters)
    advisory_lock(session, f"script:{name}")
    script = session.scalars(select(Script).where(Script.name == name)).one_or_none()
    if script is None:
        script = session.scalars(
            insert(Script).values(name=name, description=description, version=1).returning(Script)
        ).one()
    else:
        current = session.get_one(ScriptVersion, (script.id, script.version))
        same = (interpreter, content, parameters, network)
        if (current.interpreter, current.content, current.parameters, current.network) == same:
            script.description = description
            return script, current
        script.version, script.description, script.updated_at = script.version + 1, description, now
        session.flush()
    version = session.scalars(
        insert(ScriptVersion)
        .values(
            script_id=script.id, version=script.version, interpreter=interpreter, content=content,
            parameters=parameters, network=network, created_by=str(actor), created_at=now,
        )
        .returning(ScriptVersion)
    ).one()  # fmt: skip
    audit.append(
        session, now=now, actor=actor, action="script.put", object_kind="script", object_id=name,
        detail={"version": script.version, "interpreter": interpreter, "network": network},
    )  # fmt: skip
    return script, version


def find(session: Session, name: str, *, version: int | None = None) -> tuple[Script, ScriptVersion]:
    """A script's newest version, or the one that is asked for.

    :raises NotFound: no such script or version.
    """
    wanted = ScriptVersion.version == (Script.version if version is None else version)
    row = session.execute(
        select(Script, ScriptVersion)
        .join(ScriptVersion, (ScriptVersion.script_id == Script.id) & wanted)
        .where(Script.name == name)
    ).one_or_none()  # fmt: skip
    if row is None:
        raise NotFound(f"There is no {'' if version is None else f'version {version} of '}script {name}.")
    return row


def page(session: Session, *, after: str | None, limit: int) -> list[tuple[Script, ScriptVersion]]:
    """Scripts by name, each with its newest version."""
    query = (
        select(Script, ScriptVersion)
        .join(
            ScriptVersion, (ScriptVersion.script_id == Script.id) & (ScriptVersion.version == Script.version)
        )
        .order_by(Script.name)
        .limit(limit)
    )
    return list(session.execute(query.where(Script.name > after) if after else query))
