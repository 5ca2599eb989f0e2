"""A change of keys: what is sealed gets its data key wrapped anew under the first key of MEDIC_SECRETS_KEY.

The values are not opened.  It goes in batches, each of which says where the next one begins; a batch that is
done twice changes nothing, so a walk that broke off is begun anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from medic import audit, hook_store, target_store, vault
from medic.crypto.key_ring import KeyRing
from medic.errors import Conflict, Invalid

BATCH = 200
_STORES = {
    "secret": vault.rewrap_batch,
    "target": target_store.rewrap_batch,
    "hook": hook_store.rewrap_batch,
}
_KINDS = tuple(_STORES)
_CURSOR = re.compile(rf"({'|'.join(_KINDS)})((?:-[0-9]{{1,18}}){{0,2}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did.

    :param key_id: the name of the key that everything is wrapped under.
    :param broken: what does not open, in words; it is left as it is.
    :param next: where the next batch begins; None behind the last one.
    :param in_use: the keys that are still needed, told by the last batch.
    """

    key_id: str
    rewrapped: int
    broken: tuple[str, ...]
    next: str | None
    in_use: tuple[str, ...] | None


def rewrap_batch(
    session: Session, ring: KeyRing, *, after: str | None, key_id: str | None, actor: audit.Actor, now: datetime,
    limit: int = BATCH,
) -> Batch:  # fmt: skip
    """Do the next batch.

    :param after: ``next`` of the batch before; none begins.
    :param key_id: the key that the batches before wrapped under.
    :raises Misconfigured: the keys are not those of this database.
    :raises Conflict: the keys here begin with another one than where the walk began.
    """
    if key_id not in {None, ring.primary}:
        raise Conflict(
            f"MEDIC_SECRETS_KEY begins with {ring.primary} here, and with {key_id} where this began; give every process "
            "the same keys first."
        )  # fmt: skip
    vault.check_key(session, ring)
    kind, place = _read(after)
    done = _STORES[kind](session, ring, after=place, limit=limit)
    if done.last:
        following: str | None = "-".join((kind, *map(str, done.last)))
    else:
        rest = _KINDS[_KINDS.index(kind) + 1 :]
        following = rest[0] if rest else None
    if done.count:
        audit.append(
            session, now=now, actor=actor, action="secret.rewrap", object_kind="secret_key",
            object_id=ring.primary, detail={"kind": kind, "count": done.count},
        )  # fmt: skip
    in_use = None
    if following is None:
        needed = (
            vault.keys_in_use(session) | target_store.keys_in_use(session) | hook_store.keys_in_use(session)
        )
        vault.forget_keys(session, needed | {ring.primary})
        in_use = tuple(sorted(needed))
    return Batch(ring.primary, done.count, done.broken, following, in_use)


def _read(cursor: str | None) -> tuple[str, tuple[int, ...]]:
    if cursor is None:
        return _KINDS[0], ()
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise Invalid.at("after", "is not a `next` of this walk")
    place = tuple(int(part) for part in found[2].split("-")[1:])
    if place and len(place) != (2 if found[1] == "secret" else 1):
        raise Invalid.at("after", "is not a `next` of this walk")
    return found[1], place
