"""A batch's body: a JSON array or NDJSON, perhaps gzipped, read item by item.

Each item is a heartbeat, or says what is wrong with it; only a body that is no array at all is refused whole.
What is unpacked is bounded, whatever the packed size promises (CWE-409).
"""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import Annotated, Any

from flask import request
from pydantic import Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from werkzeug.exceptions import RequestEntityTooLarge

from medic.errors import Malformed, MedicError, TooLarge
from medic_api.ingest import HeartbeatIn
from medic_api.intake import UnsupportedMediaType, from_validation, read_json

MAX_ITEMS = 10_000
MAX_BYTES = 16 * 1_048_576
MAX_UNPACKED_BYTES = 32 * 1_048_576
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")

Item = HeartbeatIn | MedicError
"""A heartbeat, or why it is none."""

_GZIP = 16 + zlib.MAX_WBITS
_BLANK = b" \t\r\n"


def read_batch() -> list[Item]:
    """The request's items, in their order.

    :raises Malformed: the body is no JSON array, or not gzip though it says so.
    :raises TooLarge: it is larger than allowed, packed or unpacked, or holds too many items.
    :raises UnsupportedMediaType: it is packed otherwise.
    """
    raw = _body()
    if request.mimetype in NDJSON or not raw.lstrip(_BLANK).startswith(b"["):
        return _lines(raw)
    return _array(raw)


def _body() -> bytes:
    request.max_content_length = MAX_BYTES
    try:
        raw = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise TooLarge("The body is larger than 16 MiB; send it in parts, or gzipped.") from None
    packing = request.headers.get("Content-Encoding", "identity").strip().lower()
    if packing in {"identity", ""}:
        return raw
    if packing not in {"gzip", "x-gzip"}:
        raise UnsupportedMediaType("Content-Encoding must be gzip, or none.")
    return unpack(raw)


def unpack(raw: bytes, *, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """The content of a gzip body, of one member or several (RFC 1952, section 2.2).

    :raises Malformed: it is not gzip, or ends too early.
    :raises TooLarge: it unpacks to more than the limit, of which no more than that is unpacked.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        member = zlib.decompressobj(_GZIP)
        try:
            part = member.decompress(raw, limit + 1 - size)
        except zlib.error:
            raise Malformed("The body is not gzip, though Content-Encoding says so.") from None
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body unpacks to more than {limit // 1_048_576} MiB; send it in parts.")
        if not member.eof:
            raise Malformed("The gzip body ends too early.")
        parts.append(part)
        raw = member.unused_data
        if not raw.strip(b"\0"):  # some tools pad with zeros
            return b"".join(parts)


def _lines(raw: bytes) -> list[Item]:
    items: list[Item] = []
    for line in raw.split(b"\n"):
        if not line.strip(_BLANK):
            continue
        if len(items) == MAX_ITEMS:
            raise _too_many()
        items.append(_item(line))
    return items


def _array(raw: bytes) -> list[Item]:
    # Mostly nothing is wrong, and then nothing has to be caught item by item.
    with contextlib.suppress(ValidationError):
        return list(_HEARTBEATS.validate_json(raw, strict=True))
    try:
        return _ITEMS.validate_json(raw, strict=True)
    except ValidationError as error:
        kind = error.errors(include_input=False, include_url=False, include_context=False)[0]["type"]
        if kind == "too_long":
            raise _too_many() from None
        if kind != "json_invalid":
            raise from_validation(error) from None
        refusal = from_validation(error)
    # One text in it may be what cannot be read (half a surrogate pair, say), and its neighbours are fine.
    try:
        loose = json.loads(raw)
    except (ValueError, RecursionError):
        raise refusal from None
    if len(loose) > MAX_ITEMS:
        raise _too_many()
    return [_item(json.dumps(one).encode()) for one in loose]


def _item(raw: bytes) -> Item:
    try:
        return read_json(HeartbeatIn, raw)
    except MedicError as error:
        return error


def _caught(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        return from_validation(error)


def _too_many() -> TooLarge:
    return TooLarge(f"A call takes up to {MAX_ITEMS:,} heartbeats; send the rest in another.")


_HEARTBEATS: TypeAdapter[list[HeartbeatIn]] = TypeAdapter(
    Annotated[list[HeartbeatIn], Field(max_length=MAX_ITEMS)]
)
_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(
    Annotated[list[Annotated[HeartbeatIn, WrapValidator(_caught)]], Field(max_length=MAX_ITEMS)]
)
