"""Targets: where notifications go.  What is secret of one goes in, is sealed, and never comes out by the API.

Each secret is an envelope of its own, bound to its row, target and name, so that which ones are set can be told
without the key.  A secret that is not sent again stays, but not when the address that it is sent to changes: else
whoever may change a target could have its secrets sent to himself.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medic import audit, documents, snapshots
from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import Binding, Rewrapped, SealBroken, key_id, rewrap, seal, unseal
from medic.errors import Conflict, Invalid, Misconfigured, NotFound, PreconditionFailed
from medic.models.alerting import Delivery, Route, RouteTarget, Target
from medic.targets import KINDS
from medic.targets.base import TargetView

FROM_SETTINGS: Final[Mapping[str, str]] = {
    "slack-default": "SLACK_API_TOKEN and SLACK_CHANNEL_ID",
    "pagerduty-default": "PAGERDUTY_ROUTING_KEY",
}
"""The targets that `medic.default_route` makes, and of what; nobody else makes or changes one of these names."""

NOT_SET: Final = "The settings that it was made of are not set any more."
DEFAULT_PER_MINUTE: Final = 30
MAX_SECRET: Final = 8_192
ADDRESS: Final = ("url", "api_url", "host", "port", "tls")
"""The fields of all kinds, open or secret, that say where secrets are sent."""

OpenRing = Callable[[], KeyRing]
"""Gives the keys when they are needed: a target without a secret needs none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What people decide about a target.

    :param secrets: by name; None takes one away, and what is not named stays.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, SecretStr | None] = field(default_factory=dict)
    per_minute: int = DEFAULT_PER_MINUTE


@dataclass(frozen=True, slots=True)
class _Checked:
    config: dict[str, Any]
    secrets: dict[str, str]


def create(
    session: Session, open_ring: OpenRing, *, name: str, wish: Wish, actor: audit.Actor, now: datetime
) -> Target:
    """Make a target.

    :raises Conflict: the name is taken, or belongs to the settings.
    :raises Invalid: naming what its kind does not take.
    """
    _refuse_settings(name)
    return _make(session, open_ring, name=name, wish=wish, actor=actor, now=now)


def put(
    session: Session, open_ring: OpenRing, *, name: str, wish: Wish, actor: audit.Actor, now: datetime,
    if_match: int | None = None,
) -> tuple[Target, bool]:  # fmt: skip
    """Make a target, or change it; true when it was made.  One that was disabled is told again.

    :raises Conflict: the name belongs to the settings.
    :raises PreconditionFailed: it is no longer at ``if_match``.
    :raises Invalid: naming what its kind does not take.
    """
    target = _locked(session, name)
    _refuse_settings(target.name if target is not None else name)
    if if_match is not None and (target is None or target.version != if_match):
        raise PreconditionFailed("The target was changed since; look at it again.")
    if target is None and name.isdigit():
        raise _missing(name)
    if target is None:
        return _make(session, open_ring, name=name, wish=wish, actor=actor, now=now), True
    _change(session, open_ring, target, wish, actor=actor, now=now)
    return target, False


def enable(session: Session, *, name: str, actor: audit.Actor, now: datetime) -> Target:
    """Tell a target again that was disabled; one that is enabled stays as it is.

    :raises NotFound: no such target.
    :raises Conflict: the settings that it was made of are gone.
    """
    target = _locked(session, name)
    if target is None:
        raise _missing(name)
    if target.disabled_reason == NOT_SET:
        raise Conflict(
            f"The target {target.name} is made of {FROM_SETTINGS[target.name]}; set those and start again."
        )
    if target.disabled_at is not None:
        target.disabled_at = target.disabled_reason = None
        target.version += 1
        session.flush()
        _note_state(session, "enable", target, actor=actor, now=now)
    return target


def remove(
    session: Session, *, name: str, actor: audit.Actor, now: datetime, if_match: int | None = None
) -> None:
    """Delete a target; what was still to be sent to it fails.

    :raises NotFound: no such target.
    :raises Conflict: a route tells it, or the settings would make it again.
    """
    target = _locked(session, name)
    if target is None:
        raise _missing(name)
    if if_match is not None and target.version != if_match:
        raise PreconditionFailed("The target was changed since; look at it again.")
    if target.name in FROM_SETTINGS and target.disabled_reason != NOT_SET:
        raise Conflict(
            f"The target {target.name} is made of {FROM_SETTINGS[target.name]}; unset those instead."
        )
    used = session.scalars(
        select(Route.name).distinct().join(RouteTarget, RouteTarget.route_id == Route.id)
        .where(RouteTarget.target_id == target.id).order_by(Route.name).limit(5)
    ).all()  # fmt: skip
    if used:
        raise Conflict(f"Routes tell the target {target.name}: {', '.join(used)}. Change those first.")
    session.execute(
        update(Delivery)
        .where(Delivery.target_id == target.id, Delivery.state == "pending")
        .values(state="failed", due_at=None, owner=None, finished_at=now, error="The target was deleted."),
        execution_options={"synchronize_session": False},
    )
    _note(session, "delete", target, document(target), actor=actor, now=now)
    session.execute(delete(Target).where(Target.id == target.id))


def keep_from_settings(
    session: Session, open_ring: OpenRing, *, name: str, wish: Wish | None, actor: audit.Actor, now: datetime
) -> None:
    """Make one of `FROM_SETTINGS` what the settings say; what is so already is left alone, disabled or not.

    :param wish: None when they say nothing: then it is disabled.
    """
    target = _locked(session, name)
    if wish is None:
        if target is not None and target.disabled_reason != NOT_SET:
            target.disabled_at, target.disabled_reason = now, NOT_SET
            target.version += 1
            session.flush()
            _note_state(session, "disable", target, actor=actor, now=now)
    elif target is None:
        _make(session, open_ring, name=name, wish=wish, actor=actor, now=now)
    elif target.disabled_reason == NOT_SET or not _is_so(target, wish, open_ring()):
        _change(session, open_ring, target, wish, actor=actor, now=now, anew=True)


def find(session: Session, name: str) -> Target:
    """A target by its name, or by its number.

    :raises NotFound: no such target.
    """
    target = session.scalars(select(Target).where(_is_named(name))).one_or_none()
    if target is None:
        raise _missing(name)
    return target


def page(session: Session, *, after: str | None, limit: int) -> list[Target]:
    """Targets by name, behind ``after``."""
    query = select(Target).order_by(Target.name).limit(limit)
    return list(session.scalars(query.where(Target.name > after) if after is not None else query))


def document(target: Target) -> documents.Document:
    """What people decided about a target, as a snapshot keeps it: of its secrets the names."""
    return documents.of_target(target, secrets=secret_names(target))


def secret_names(target: Target) -> list[str]:
    """Which secrets are set."""
    return sorted(_envelopes(target))


def view(target: Target, key_ring: KeyRing) -> TargetView:
    """A target with its secrets open, to be sent to.

    :raises SealBroken: a secret was changed or moved in the database.
    :raises Misconfigured: the key that sealed it is not there.
    """
    secrets = {name: SecretStr(value) for name, value in _reveal(target, key_ring).items()}
    return TargetView(id=target.id, name=target.name, config=target.config, secrets=secrets)


def check_key(session: Session, key_ring: KeyRing) -> None:
    """A key that sealed a target's secret and is gone stops the start.

    :raises Misconfigured: naming the key.
    """
    for name in keys_in_use(session):
        key_ring.key(name)


def keys_in_use(session: Session) -> set[str]:
    """The names of the keys that targets' secrets need."""
    found = set()
    for target in session.scalars(select(Target).where(Target.sealed.is_not(None))):
        for _, envelope in _envelopes(target).values():
            with contextlib.suppress(SealBroken):  # no key would open it
                found.add(key_id(envelope))
    return found


def rewrap_batch(session: Session, key_ring: KeyRing, *, after: tuple[int, ...], limit: int) -> Rewrapped:
    """Wrap the data keys of some targets' secrets under the primary key.  No version changes: no value does.

    :param after: the target behind which to begin.
    """
    query = select(Target).where(Target.sealed.is_not(None), *([Target.id > after[0]] if after else []))
    targets = session.scalars(query.order_by(Target.id).limit(limit).with_for_update(key_share=True)).all()
    count, broken = 0, []
    for target in targets:
        found = _envelopes(target)
        for name, (version, envelope) in found.items():
            try:
                found[name] = version, rewrap(key_ring, envelope, _binding(target, name, version))
            except (SealBroken, Misconfigured):
                broken.append(f"target {target.name}, {name}")
            else:
                count += found[name][1] != envelope
        _keep(target, found)
    session.flush()
    return Rewrapped(count, tuple(broken), (targets[-1].id,) if targets else ())


def _make(
    session: Session, open_ring: OpenRing, *, name: str, wish: Wish, actor: audit.Actor, now: datetime
) -> Target:
    checked = _check(wish, kept={})
    try:
        with session.begin_nested():
            target = session.scalars(
                insert(Target)
                .values(
                    name=name, kind=wish.kind, config=checked.config, per_minute=wish.per_minute, created_at=now
                )
                .returning(Target)
            ).one()  # fmt: skip
    except IntegrityError:
        raise Conflict(f"A target {name} exists already.") from None
    if checked.secrets:
        # Its number is part of what a seal is bound to.
        _seal(target, open_ring(), checked.secrets, kept={})
        session.flush()
    _note(session, "create", target, None, actor=actor, now=now, detail=_shown(target))
    return target


def _change(
    session: Session, open_ring: OpenRing, target: Target, wish: Wish, *, actor: audit.Actor, now: datetime,
    anew: bool = False,
) -> None:  # fmt: skip
    """Change a target.

    :param anew: nothing of its secrets stays.
    """
    before: dict[str, str] = {}
    if not anew and wish.kind == target.kind and set(_envelopes(target)) - set(wish.secrets):
        before = _reveal(target, open_ring())
    kept = {name: value for name, value in before.items() if name not in wish.secrets}
    checked = _check(wish, kept=kept)
    was = document(target)
    if kept:
        _need_same_address({**target.config, **before}, {**checked.config, **checked.secrets}, sorted(kept))
    target.version += 1
    target.kind, target.config, target.per_minute = wish.kind, checked.config, wish.per_minute
    target.disabled_at = target.disabled_reason = None
    if checked.secrets:
        _seal(target, open_ring(), checked.secrets, kept)
    else:
        target.sealed = None
    session.flush()
    _note(session, "change", target, was, actor=actor, now=now,
          detail=_shown(target) | {"new_secrets": sorted(set(checked.secrets) - set(kept))})  # fmt: skip


def _need_same_address(before: Mapping[str, Any], after: Mapping[str, Any], kept: list[str]) -> None:
    for part in ADDRESS:
        if before.get(part) != after.get(part):
            raise Invalid.at(
                "secrets", f"{', '.join(kept)} must be sent again, as {part} changes where it goes"
            )


def _check(wish: Wish, *, kept: Mapping[str, str]) -> _Checked:
    kind = KINDS.get(wish.kind)
    if kind is None:
        raise Invalid.at("kind", f"is none of {', '.join(KINDS)}")
    given = {name: value.get_secret_value() for name, value in wish.secrets.items() if value is not None}
    for name, value in given.items():
        if not 1 <= len(value) <= MAX_SECRET:
            raise Invalid.at(f"secrets.{name}", f"must have 1 to {MAX_SECRET} characters")
    config, secrets = kind.parse(wish.config, {**kept, **given})
    return _Checked(dict(config), dict(secrets))


def _is_so(target: Target, wish: Wish, key_ring: KeyRing) -> bool:
    checked = _check(wish, kept={})
    try:
        return target.config == checked.config and _reveal(target, key_ring) == checked.secrets
    except (SealBroken, Misconfigured):
        return False  # sealed anew, it opens


def _seal(target: Target, key_ring: KeyRing, secrets: Mapping[str, str], kept: Mapping[str, str]) -> None:
    """Seal what is new; an envelope whose value stays is left as it is."""
    before = _envelopes(target)
    found = {}
    for name, value in secrets.items():
        if name in before and kept.get(name) == value:
            version, envelope = before[name]
        else:
            version = target.version
            envelope = seal(key_ring, SecretStr(value), _binding(target, name, version))
        found[name] = version, envelope
    _keep(target, found)


def _reveal(target: Target, key_ring: KeyRing) -> dict[str, str]:
    return {
        name: unseal(key_ring, envelope, _binding(target, name, version)).get_secret_value()
        for name, (version, envelope) in _envelopes(target).items()
    }


def _envelopes(target: Target) -> dict[str, tuple[int, bytes]]:
    if target.sealed is None:
        return {}
    return {
        name: (item["version"], base64.b64decode(item["sealed"]))
        for name, item in json.loads(target.sealed).items()
    }


def _keep(target: Target, envelopes: Mapping[str, tuple[int, bytes]]) -> None:
    written = {
        name: {"version": version, "sealed": base64.b64encode(envelope).decode()}
        for name, (version, envelope) in envelopes.items()
    }
    target.sealed = json.dumps(written, sort_keys=True).encode()


def _binding(target: Target, secret: str, version: int) -> Binding:
    return Binding("target", str(target.id), f"{target.kind} {target.name} {secret}", version)


def _refuse_settings(name: str) -> None:
    if name in FROM_SETTINGS:
        raise Conflict(f"The target {name} is made of {FROM_SETTINGS[name]}; give yours another name.")


def _is_named(name: str) -> Any:
    return Target.id == int(name) if name.isdigit() and len(name) <= 18 else Target.name == name


def _locked(session: Session, name: str) -> Target | None:
    return session.scalars(select(Target).where(_is_named(name)).with_for_update()).one_or_none()


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no target {name}.")


def _shown(target: Target) -> dict[str, Any]:
    """What an audit entry keeps: an address may hold more than it should, so none is kept."""
    return {"kind": target.kind, "per_minute": target.per_minute, "secrets": secret_names(target)}


def _note(
    session: Session, verb: str, target: Target, before: documents.Document | None, *, actor: audit.Actor,
    now: datetime, detail: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    if target.name in FROM_SETTINGS:
        # No snapshot: the settings have it, and a restart would undo what is restored.
        audit.append(
            session, now=now, actor=actor, action=f"target.{verb}", object_kind="target", object_id=target.name,
            detail=detail,
        )  # fmt: skip
        return
    snapshots.record(
        session, now=now, actor=actor, action=f"target.{verb}", object_kind="target", object_id=target.name,
        before=before, detail=detail,
    )  # fmt: skip


def _note_state(session: Session, verb: str, target: Target, *, actor: audit.Actor, now: datetime) -> None:
    audit.append(
        session, now=now, actor=actor, action=f"target.{verb}", object_kind="target", object_id=target.name
    )
