"""Heartbeats by the batch: each item is judged by itself, and answered in its place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import Response, json, request
from pydantic import Field

from medic.errors import Forbidden, Invalid, MedicError, NotFound, Problem, Throttled, Unavailable
from medic.group_commit import GROUP_LIMIT, GroupCommit
from medic.heartbeats import Signal, Written
from medic.telemetry import metrics
from medic.times import format_time
from medic_api.batch_body import MAX_ITEMS, Item, read_batch
from medic_api.fields import Answer
from medic_api.guard import caller, guard, limit_many
from medic_api.guard import services as shared
from medic_api.ingest import HeartbeatIn, to_signal

bp = APIBlueprint("batch", __name__, url_prefix="/v1", tag="Heartbeats")

OWN_LANE = 100
"""Batches above this size have a lane of their own: a single heartbeat never waits behind one."""
SMALL_BYTES = 65_536
"""A larger body, or one of unknown or packed size, takes its time and memory: of those, half of the threads at once."""


class ItemOut(Answer):
    """What became of one item."""

    status: Literal[200, 202, 400, 403, 404, 422, 429, 503] = Field(
        description="202 stored, 200 stored before, else as `POST /v1/heartbeats` would answer it."
    )
    id: int | None
    service: str | None
    received_at: str | None
    message_cut: bool
    code: str | None = Field(description="Of the problem; stable.")
    detail: str | None


class BatchOut(Answer):
    """What became of each item, in the order of the items."""

    stored: int
    repeated: int
    refused: int
    items: list[ItemOut]


@dataclass(slots=True)
class _Entry:
    """One item on its way."""

    item: Item
    signal: Signal | None = None
    cut: bool = False
    written: Written | None = None
    error: MedicError | None = None

    @property
    def service(self) -> str | None:
        return self.item.service if isinstance(self.item, HeartbeatIn) else None


@bp.post("/heartbeats/batch")
@guard(scope="heartbeats:write", rate="heartbeat_key", limited=False)
@bp.doc(
    summary="Send many heartbeats",
    description=f"A JSON array or NDJSON of up to {MAX_ITEMS:,} heartbeats, up to 16 MiB, plain or gzipped "
    "(`Content-Encoding: gzip`; up to 32 MiB unpacked). One that is refused costs its neighbours nothing. 202: "
    "all are committed; 207: some are, and the items say which; an error: none is. Limits count as for single "
    "heartbeats. Send an `id` with each to make a retry harmless.",
    responses={207: "Some are refused.", 413: "Too large, packed or unpacked."},
    extensions={"x-batch": True},
)
@bp.output(BatchOut, status_code=202)
def send_batch() -> Response:
    if 0 < (request.content_length or 0) <= SMALL_BYTES and "Content-Encoding" not in request.headers:
        return _take()
    room = shared().large_batches
    if not room.acquire(blocking=False):
        raise Unavailable("Medic takes as many large batches as it can; send this one again.", retry_after=1)
    try:
        return _take()
    finally:
        room.release()


def _take() -> Response:
    entries = [_Entry(item, error=item if isinstance(item, MedicError) else None) for item in read_batch()]
    if not entries:
        raise Invalid("The batch is empty.")
    _keep_own(entries)
    _keep_allowed(entries)
    _find(entries)
    _store(entries)
    for kind, count in Counter(e.signal.kind for e in entries if e.signal and _is_new(e)).items():
        metrics.HEARTBEATS.labels(kind).inc(count)
    return _answer(entries)


def _left(entries: Sequence[_Entry]) -> list[tuple[_Entry, HeartbeatIn]]:
    return [(e, e.item) for e in entries if e.error is None and isinstance(e.item, HeartbeatIn)]


def _keep_own(entries: Sequence[_Entry]) -> None:
    key = caller()
    if key.service_patterns is None:
        return
    may = {name: key.may_touch(name) for name in {item.service for _, item in _left(entries)}}
    for entry, item in _left(entries):
        if not may[item.service]:
            entry.error = Forbidden(f"This key is not for the service {item.service}.")


def _keep_allowed(entries: Sequence[_Entry]) -> None:
    """As many of each service, and then of all, as their limits let through; the first come first."""
    at = time.monotonic()
    left = _left(entries)
    granted = {
        name: limit_many("heartbeat", f"service:{name}", count, at)
        for name, count in Counter(item.service for _, item in left).items()
    }
    for entry, item in left:
        grant = granted[item.service]
        if grant.left == 0:
            entry.error = grant.refusal
        else:
            grant.left -= 1
    left = _left(entries)
    # A call counts as one at the least, so that a stream of refused ones ends too.
    whole = limit_many(
        "heartbeat_key",
        f"key:{caller().key_id}",
        max(1, len(left)),
        at,
        writable=shared().writable.count(caller()),
    )
    for entry, _ in left[whole.left :]:
        entry.error = whole.refusal


def _find(entries: Sequence[_Entry]) -> None:
    left = _left(entries)
    known = shared().directory.find_all({item.service for _, item in left})
    arrival = datetime.now(UTC)
    for entry, item in left:
        service = known.get(item.service)
        if service is None:
            entry.error = NotFound(f"There is no service {item.service}.")
            continue
        try:
            entry.signal, entry.cut = to_signal(item, service, arrival=arrival)
        except Invalid as error:
            entry.error = error


def _store(entries: Sequence[_Entry]) -> None:
    ready = [entry for entry in entries if entry.signal is not None]
    lane = shared().heartbeats if len(ready) <= OWN_LANE else shared().batches
    for start in range(0, len(ready), GROUP_LIMIT):
        _write(lane, ready[start : start + GROUP_LIMIT])
    gone = [entry for entry in ready if entry.written is not None and entry.written.id is None]
    for entry in gone:
        # Deleted since we heard of it; one that was made anew meanwhile is found by the next call.
        shared().directory.forget(entry.service or "")
        entry.error = NotFound(f"There is no service {entry.service}.")


def _write(lane: GroupCommit, entries: list[_Entry]) -> None:
    """Store them; where PostgreSQL refuses a value, in halves until it stands alone."""
    try:
        written = lane.write([entry.signal for entry in entries if entry.signal is not None])
    except Invalid as error:
        if len(entries) == 1:
            entries[0].error = error
            return
        middle = len(entries) // 2
        _write(lane, entries[:middle])
        _write(lane, entries[middle:])
    except MedicError as error:
        for entry in entries:
            entry.error = error
    else:
        for entry, done in zip(entries, written, strict=True):
            entry.written = done


def _is_new(entry: _Entry) -> bool:
    return entry.error is None and entry.written is not None and not entry.written.is_repeat


def _answer(entries: Sequence[_Entry]) -> Response:
    refused = [entry.error for entry in entries if entry.error is not None]
    if len(refused) == len(entries):
        raise _none_stored(refused)
    stored = sum(map(_is_new, entries))
    body = {
        "stored": stored,
        "repeated": len(entries) - stored - len(refused),
        "refused": len(refused),
        "items": [_shown(entry) for entry in entries],
    }
    return Response(json.dumps(body), status=207 if refused else 202, content_type="application/json")


def _none_stored(errors: Sequence[MedicError]) -> MedicError:
    """Come back, if that may help one of them; else what is wrong with each."""
    for kind in (Unavailable, Throttled):
        for error in errors:
            if isinstance(error, kind):
                return error
    first = errors[0]
    if all(type(error) is type(first) and error.message == first.message for error in errors):
        return first
    problems = tuple(Problem(str(place), error.message) for place, error in enumerate(errors[:100]))
    return Invalid("No item of the batch can be stored.", problems=problems)


def _shown(entry: _Entry) -> dict[str, Any]:
    error, written = entry.error, entry.written
    shown: dict[str, Any] = {
        "status": 202, "id": None, "service": entry.service, "received_at": None, "message_cut": entry.cut,
        "code": None, "detail": None,
    }  # fmt: skip
    if error is not None:
        return shown | {
            "status": error.status,
            "message_cut": False,
            "code": error.code,
            "detail": error.message,
        }
    assert written is not None
    assert written.received_at is not None
    return shown | {
        "status": 200 if written.is_repeat else 202,
        "id": written.id,
        "received_at": format_time(written.received_at),
    }
