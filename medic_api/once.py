"""``Idempotency-Key`` on a POST: a repeat gets the first answer, and has no second effect."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import request
from sqlalchemy.orm import Session

from medic.db import database_now, in_transaction
from medic.errors import Invalid, MedicError
from medic.idempotency import Kept, Repeatable, keep, recall
from medic_api.guard import caller
from medic_api.guard import services as shared

IDEMPOTENT = {"Idempotency-Key": "Makes a repeat within 24 h harmless: 1 to 255 visible ASCII characters."}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a POST answers; ``repeated`` when it was done before."""

    status: int
    body: dict[str, Any]
    repeated: bool

    @property
    def headers(self) -> dict[str, str]:
        return {"Idempotent-Replayed": "true"} if self.repeated else {}


def once(work: Callable[[Session], dict[str, Any] | MedicError], *, status: int) -> Reply:
    """Do the work in one transaction, unless this request was answered before.

    :param work: gives the answer's body, as JSON.  An error that it returns, not raises, leaves what it wrote
        (an audit entry of the refusal, say) and is raised after the commit; a repeat tries anew.
    """
    asked = _asked()

    def transact(session: Session) -> Reply | MedicError:
        now = database_now(session)
        kept = recall(session, asked, now=now) if asked else None
        if kept is not None:
            return Reply(kept.status, kept.body, repeated=True)
        body = work(session)
        if isinstance(body, MedicError):
            return body
        if asked:
            keep(session, asked, Kept(status, body), now=now)
        return Reply(status, body, repeated=False)

    outcome = in_transaction(shared().engine, transact)
    if isinstance(outcome, MedicError):
        raise outcome
    return outcome


def _asked() -> Repeatable | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        raise Invalid.at("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    what = f"{request.method} {request.full_path}\n".encode("utf-8", "surrogatepass") + request.get_data()
    return Repeatable(caller().key_id, key, hashlib.sha256(what).digest())
