"""Bodies and queries in: read strictly, refused with every field that is wrong.

A body is JSON of exact types (``"3"`` is no number), without NaN or Infinity; an empty one reads as ``{}``.  A query
is text, so its numbers and truth values are read from it.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from apiflask.schema_adapters.pydantic import PydanticAdapter
from flask import Request as HttpRequest
from flask import request
from pydantic import BaseModel, ValidationError

from medic.errors import Invalid, Malformed, MedicError, Problem
from medic_api.problems import validation_problems

YAML_TYPES = ("application/yaml", "text/yaml", "text/plain", "application/x-yaml")


class StrictAdapter(PydanticAdapter):
    """How APIFlask hands requests to our models."""

    def validate_input(self, request: HttpRequest, location: str, **_: Any) -> BaseModel:
        """The request's part as a model.

        :raises Malformed: the body is not JSON.
        :raises Invalid: naming each field that is wrong.
        """
        model: type[BaseModel] = self.model_class
        if location == "json":
            return read_json(model, request.get_data())
        assert location == "query", location
        repeated = [name for name, values in request.args.lists() if len(values) > 1]
        if repeated:
            raise Invalid.at(repeated[0], "is given more than once")
        try:
            return model.model_validate(request.args.to_dict())
        except ValidationError as error:
            raise from_validation(error) from None


Model = TypeVar("Model", bound=BaseModel)


def read_json(model: type[Model], raw: bytes) -> Model:
    """A JSON body as a model.

    :raises Malformed: it is not JSON.
    :raises Invalid: naming each field that is wrong.
    """
    try:
        return model.model_validate_json(raw if raw.strip() else b"{}", strict=True)
    except ValidationError as error:
        raise from_validation(error) from None


def from_validation(error: ValidationError) -> MedicError:
    """Pydantic's findings as one of our errors; what was sent is not repeated."""
    for item in error.errors(include_input=False, include_url=False):
        if item["type"] == "json_invalid":
            where = _WHERE.search(item["msg"])
            line, column = (int(where[1]), int(where[2])) if where else (None, None)
            text = "The body is not JSON" + (f" (line {line}, column {column})." if where else ".")
            return Malformed(text, problems=(Problem("", "is not JSON", line, column),))
    problems = validation_problems(error)
    first = problems[0]
    where_ = f"{first.path}: " if first.path else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Invalid(f"{where_}{first.message}{more}", problems=problems)


_WHERE = re.compile(r"at line (\d+) column (\d+)")


def read_yaml() -> str:
    """The request's body as text.

    :raises MedicError: 415 for another content type.
    :raises Malformed: it is not UTF-8.
    """
    if request.mimetype and request.mimetype not in YAML_TYPES:
        raise UnsupportedMediaType(f"Send the YAML as one of: {', '.join(YAML_TYPES)}.")
    try:
        return request.get_data().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8: byte {error.start + 1} is not.") from None


class UnsupportedMediaType(MedicError):
    code = "unsupported_media_type"
    status = 415
