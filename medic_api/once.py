"""``Idempotency-Key`` on a POST: a repeat gets the first answer, and has no second effect."""

from __future__ import annotations

import hmac
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

IDEMPOTENT = {
    "Idempotency-Key": "Makes a repeat within a day (IDEMPOTENCY_RETENTION_DAYS) harmless: "
    "1 to 255 visible ASCII characters."
}
ALREADY = "already created"
NOTE = "`already created`: this repeats an earlier request; what was shown once is null."
"""Of the field ``note`` of an answer that holds what is shown once."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a POST answers; ``repeated`` when it was done before."""

    status: int
    body: dict[str, Any]
    repeated: bool

    @property
    def note(self) -> dict[str, str]:
        """What a repeat says where something was shown once."""
        return {"note": ALREADY} if self.repeated else {}

    @property
    def headers(self) -> dict[str, str]:
        return {"Idempotent-Replayed": "true"} if self.repeated else {}


def once(work: Callable[[Session], dict[str, Any] | MedicError], *, status: int) -> Reply:
    """Do the work in one transaction, unless this request was answered before.

    :param work: gives the answer's body, as JSON, without what is shown once.  An error that it returns, not raises, leaves what it wrote
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
            days = shared().settings.idempotency_retention_days
            keep(session, asked, Kept(status, body), days=days, now=now)
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
    # Under the pepper: a body may hold a secret that a bare digest would let somebody guess.
    return Repeatable(caller().key_id, key, hmac.digest(shared().settings.need_pepper(), what, "sha256"))
