"""The document against the application: whatever Schemathesis makes of it, nothing answers 5xx."""

from __future__ import annotations

import warnings

import schemathesis
from apiflask import APIFlask
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.api.caller import Api

PER_OPERATION = 5


def test_nothing_in_the_document_leads_to_a_5xx(app: APIFlask, restart: Api) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    called: dict[str, set[int]] = {}
    reached = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.label == "DELETE /v1/keys/{key_id}":
            continue  # it may end the very key that this runs with
        reached += 1

        @hypothesis_settings(
            max_examples=PER_OPERATION, deadline=None, database=None, derandomize=True,
            phases=[Phase.explicit, Phase.generate], verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=st.one_of(operation.as_strategy(), _negative(operation)))
        def check(case: schemathesis.Case) -> None:
            response = case.call(headers={"Authorization": f"Bearer {restart.key}"})
            called.setdefault(case.operation.label, set()).add(response.status_code)
            assert response.status_code < 500 or case.path.startswith("/health"), (
                case.as_curl_command(), response.text,
            )  # fmt: skip

        check()
    assert len(called) == reached
    # Not everything was refused at the door.
    assert sum(1 for codes in called.values() if codes & {200, 201, 202, 204}) >= 12, called


def _negative(operation: schemathesis.schemas.APIOperation) -> st.SearchStrategy[schemathesis.Case]:
    from schemathesis.generation import GenerationMode

    return operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
