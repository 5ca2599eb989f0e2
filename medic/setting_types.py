"""The types of settings: how the text of a variable becomes a value, and what is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medic.errors import Invalid
from medic.times import parse_duration, parse_zone


def _strict_bool(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().lower()
        if word not in {"true", "false"}:
            raise ValueError("write true or false")
        return word == "true"
    return value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _names(value: object) -> object:
    """Comma-separated names; blanks are ignored."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _zone(value: object) -> object:
    try:
        return parse_zone(value, path="it").key
    except Invalid as error:
        raise ValueError(str(error)) from None


def _seconds(value: object) -> object:
    try:
        return int(parse_duration(value, path="it").total_seconds()) if isinstance(value, str) else value
    except Invalid as error:
        raise ValueError(str(error)) from None


Bool = Annotated[bool, BeforeValidator(_strict_bool)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
Format = Annotated[Literal["json", "text"], BeforeValidator(_lower)]
Sandbox = Annotated[Literal["required", "best-effort"], BeforeValidator(_lower)]
Zone = Annotated[str, BeforeValidator(_zone)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Limit = Annotated[int, Field(ge=1, le=10_000_000)]


def env(name: str, default: Any, help_: str, section: str, *, unused: bool = False) -> Any:
    """A field of the settings, by the name of its variable.

    :param unused: it is read and checked, but what it steers is not in this version yet.
    """
    return Field(
        default, alias=name, description=help_, json_schema_extra={"section": section, "unused": unused}
    )
