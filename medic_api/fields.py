"""Types of fields that many requests share: read from text, checked, shown in the OpenAPI document."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Annotated, Any

from apiflask.schema_adapters import registry
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from medic.errors import Invalid
from medic.models.monitoring import NAME_PATTERN
from medic.times import format_duration, format_time, parse_duration, parse_time
from medic_api.intake import StrictAdapter

# Here, as every view's models come from here: what reads them stands before the first view is made.
registry.register("pydantic", StrictAdapter)

MAX_ID = 2**63 - 1
RESERVED_NAMES = frozenset({"batch", "start", "complete", "fail", "log"})


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(value, path="")
    except Invalid as error:
        raise ValueError(error.message) from None


def _time(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    try:
        return parse_time(value, path="")
    except Invalid as error:
        raise ValueError(error.message) from None


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:  # Python's own JSON reader lets it pass
        raise ValueError("must not hold half of a surrogate pair") from None
    return value


def _free_name(value: str) -> str:
    if value in RESERVED_NAMES or value.isdigit():
        raise ValueError("is a reserved name")
    return value


def _storable(value: Any) -> Any:
    """JSON that PostgreSQL and any reader can hold: no NUL, no NaN, no Infinity."""
    if isinstance(value, str):
        return _no_nul(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not hold NaN or Infinity")
    if isinstance(value, dict):
        for key, item in value.items():
            _no_nul(key)
            _storable(item)
    elif isinstance(value, list):
        for item in value:
            _storable(item)
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["nightly-backup"])]
NewName = Annotated[Name, AfterValidator(_free_name)]
Pattern = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9*?._-]{1,128}$",
        examples=["web-*"],
        description="A name; `*` and `?` stand for others.",
    ),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}], "examples": ["5m", "1h30m", 90]}),
]
JsonValue = Annotated[Any, AfterValidator(_storable)]
Time = Annotated[
    datetime,
    BeforeValidator(_time),
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Request(BaseModel):
    """A body or query: an unknown field is an error, not a wish that nobody reads."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Answer(BaseModel):
    """What Medic answers."""

    model_config = ConfigDict(from_attributes=True)


class Page(Request):
    """The query of a list: items behind ``after``, which the answer before gave as ``next``."""

    limit: int = Field(50, ge=1, le=250, description="How many items at the most.")
    after: Text | None = Field(None, max_length=200, description="The `next` of the page before.")
