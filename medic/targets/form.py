"""Reading what a person entered: pydantic's findings as ours, and what fits into a header field.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from medic.egress.urls import parse_target
from medic.errors import EgressRefused, Invalid, Problem

M = TypeVar("M", bound=BaseModel)


class Form(BaseModel):
    """The fields of a target; others are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _web_address(url: str) -> str:
    try:
        parse_target(url)
    except EgressRefused as error:
        raise ValueError(f"cannot be used: {error.reason}") from None
    return url


Url = Annotated[str, AfterValidator(_web_address)]
"""An http or https URL.  Whether it may be reached is judged at each sending, since names move."""

Word = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,1024}$")]
"""Visible ASCII without spaces: a token, which goes into a header field or a URL."""


def read(
    config_form: type[M], config: Mapping[str, Any], secrets_form: type[BaseModel], secrets: Mapping[str, str]
) -> tuple[M, dict[str, Any], dict[str, str]]:
    """The configuration as an object and as it is stored, and the secrets.

    :raises Invalid: naming every field that is wrong.
    """
    problems: list[Problem] = []
    read_config = _read(config_form, config, "config", problems)
    read_secrets = _read(secrets_form, secrets, "secrets", problems)
    if read_config is None or read_secrets is None:
        first = problems[0]
        raise Invalid(f"{first.path}: {first.message}", problems=tuple(problems))
    return (
        read_config,
        read_config.model_dump(mode="json", by_alias=True, exclude_none=True),
        read_secrets.model_dump(exclude_none=True),
    )


def _read(form: type[M], values: Mapping[str, Any], where: str, problems: list[Problem]) -> M | None:
    try:
        return form.model_validate(dict(values))
    except ValidationError as error:
        for item in error.errors(include_input=False, include_url=False, include_context=False):
            path = ".".join([where, *(str(part) for part in item["loc"])])
            problems.append(
                Problem(path, _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, ")))
            )
    return None


_MESSAGES = {
    "extra_forbidden": "is not a field here",
    "missing": "is required",
    "string_pattern_mismatch": "holds a character that does not belong there, or has an impossible length",
}
