"""Heartbeats by the batch: each item is judged by itself, and answered in its place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from apiflask import APIBlueprint
from flask import Response, g, json
from pydantic import Field

from medic.batch_lane import BatchLane
from medic.errors import Forbidden, Invalid, MedicError, NotFound, Problem, Throttled, Unavailable
from medic.group_commit import GROUP_LIMIT, GroupCommit
from medic.heartbeats import Signal, Written
from medic.telemetry import metrics
from medic.times import format_time
from medic_api.batch_body import MAX_ITEMS, Item, read_batch
from medic_api.fields import Answer
from medic_api.guard import Grant, caller, grant_part, guard, is_small, limit
from medic_api.guard import services as shared
from medic_api.ingest import HeartbeatIn, to_signal

bp = APIBlueprint("batch", __name__, url_prefix="/v1", tag="Heartbeats")

OWN_LANE = 100
"""Batches above this size have a lane of their own: a single heartbeat never waits behind one."""


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
    if is_small():
        return _take()
    # A larger body, or one of unknown or packed size, takes its time and memory: of those, half of the threads at once.
    room = shared().large_batches
    if not room.acquire(blocking=False):
        raise Unavailable("Medic takes as many large batches as it can; send this one again.", retry_after=1)
    try:
        return _take()
    finally:
        room.release()


def _take() -> Response:
    # A call counts as one heartbeat, before its body is read, so that a stream of refused ones ends too.
    limit(
        "heartbeat_key",
        f"key:{caller().key_id}",
        time.monotonic(),
        writable=shared().writable.count(caller()),
        unread=_named,
    )
    entries = [_Entry(item, error=item if isinstance(item, MedicError) else None) for item in read_batch()]
    if not entries:
        raise Invalid("The batch is empty.")
    _keep_own(entries)
    _keep_allowed(entries)
    throttled = [entry.service for entry in entries if isinstance(entry.error, Throttled)]
    shared().heartbeats.refused([name for name in throttled if name is not None], "limit")
    _find(entries)
    _store(entries)
    for kind, count in Counter(e.signal.kind for e in entries if e.signal and _is_new(e)).items():
        metrics.HEARTBEATS.labels(kind).inc(count)
    return _answer(entries)


def _named() -> list[str]:
    """The services of a small batch that is refused unread, as far as the caller may send their heartbeats."""
    try:
        items = read_batch() if is_small() else []
    except MedicError:
        return []
    may = caller().may_touch
    return [item.service for item in items if isinstance(item, HeartbeatIn) and may(item.service)]


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
    hit = shared().limiter.hit
    short: dict[str, Grant] = {}
    for name, count in Counter([item.service for _, item in left]).items():
        subject = f"service:{name}"
        decision = hit("heartbeat", subject, cost=count, now=at)
        if not decision.allowed:
            short[name] = grant_part(decision, subject, count, at)
    if short:
        for entry, item in left:
            _spend(entry, short.get(item.service))
        left = _left(entries)
    rest = left[1:]
    if not rest:
        return
    subject, writable = f"key:{caller().key_id}", shared().writable.count(caller())
    g.rate_decision = hit("heartbeat_key", subject, cost=len(rest), services=writable, now=at)
    if not g.rate_decision.allowed:
        whole = grant_part(g.rate_decision, subject, len(rest), at, writable=writable)
        for entry, _ in rest:
            _spend(entry, whole)


def _spend(entry: _Entry, grant: Grant | None) -> None:
    if grant is None:
        return
    if grant.left == 0:
        entry.error = grant.refusal
    else:
        grant.left -= 1


def _find(entries: Sequence[_Entry]) -> None:
    left = _left(entries)
    known = shared().directory.find_all({item.service for _, item in left})
    arrival = datetime.now(UTC)
    days = shared().settings.heartbeat_retention_days
    for entry, item in left:
        service = known.get(item.service)
        if service is None:
            entry.error = NotFound(f"There is no service {item.service}.")
            continue
        try:
            entry.signal, entry.cut = to_signal(item, service, arrival=arrival, retention_days=days)
        except Invalid as error:
            entry.error = error


def _store(entries: Sequence[_Entry]) -> None:
    ready = [entry for entry in entries if entry.signal is not None]
    lane = shared().heartbeats if len(ready) <= OWN_LANE else shared().batches
    for start in range(0, len(ready), GROUP_LIMIT):
        _write(lane, ready[start : start + GROUP_LIMIT])
    for entry in ready:
        if entry.written is None or entry.written.is_current:
            continue
        shared().directory.forget(entry.service or "")
        if entry.written.id is None:
            # Deleted since we heard of it; one that was made anew meanwhile is found by the next call.
            entry.error = NotFound(f"There is no service {entry.service}.")


def _write(lane: GroupCommit | BatchLane, entries: list[_Entry]) -> None:
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
        if lane is shared().batches:  # the other one notes it by itself
            refused = [entry.signal.service.id for entry in entries if entry.signal is not None]
            shared().heartbeats.refused(refused, "queue")
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
    text = (
        f'{{"stored":{stored},"repeated":{len(entries) - stored - len(refused)},"refused":{len(refused)},'
        f'"items":[{",".join(_shown(entries))}]}}'
    )
    return Response(text, status=207 if refused else 202, content_type="application/json")


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


def _shown(entries: Sequence[_Entry]) -> Iterator[str]:
    """Each item's JSON.  Names need no escapes; and of most, only the number differs."""
    moment, shown_at = None, ""
    for entry in entries:
        error, written = entry.error, entry.written
        if error is not None:
            yield json.dumps({
                "status": error.status, "id": None, "service": entry.service, "received_at": None,
                "message_cut": False, "code": error.code, "detail": error.message,
            })  # fmt: skip
            continue
        assert written is not None
        assert written.received_at is not None
        if written.received_at is not moment:
            moment, shown_at = written.received_at, format_time(written.received_at)
        yield (
            f'{{"status":{200 if written.is_repeat else 202},"id":{written.id},"service":"{entry.service}",'
            f'"received_at":"{shown_at}","message_cut":{"true" if entry.cut else "false"},"code":null,"detail":null}}'
        )
