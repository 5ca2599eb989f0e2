"""``webhook``: one HTTP request.

It carries ``Idempotency-Key: <execution>.<step>``, the same over all attempts, and ``Medic-Fencing-Token: <epoch>``,
which grows with each take-over, so that a receiver can refuse what comes late (Kleppmann, "How to do
distributed locking", 2016).  Redirects are not followed: a redirect is an answer like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, Literal

from medic.errors import EgressFailed, EgressRefused
from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.steps.answer import Expected, Success, describe, read_success, render_success, shortfall
from medic.steps.base import STEPS_QUEUE, ActContext, Checks, Done, Failed, Outcome
from medic.steps.output import MOST_BYTES, fit_output
from medic.steps.request import Request, RequestSpec, read_request, render_request

# RFC 9110 section 9.2.2.
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class WebhookSpec:
    request: RequestSpec
    success: Success
    idempotent: bool


@dataclass(frozen=True, slots=True)
class RenderedWebhook:
    request: Request
    expected: Expected
    shown: dict[str, Json] = field(default_factory=dict)


class WebhookStep:
    type: ClassVar[str] = "webhook"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = True
    parks: ClassVar[bool] = False
    times_out: ClassVar[bool] = True
    default_timeout: ClassVar[timedelta | None] = _TIMEOUT

    def parse(self, reader: Reader) -> WebhookSpec:
        request = read_request(reader)
        success = read_success(reader)
        idempotent = reader.flag("idempotent", default=request.method in _IDEMPOTENT)
        return WebhookSpec(request, success, idempotent)

    def parse_probe(self, reader: Reader) -> WebhookSpec:
        """As a probe it asks and changes nothing."""
        request = read_request(reader, methods=("GET", "HEAD"), method="GET")
        return WebhookSpec(request, read_success(reader, default=frozenset(range(200, 300))), idempotent=True)

    def on_crash(self, spec: WebhookSpec, /) -> Literal["retry", "ask"]:
        return "retry" if spec.idempotent else "ask"

    def render(self, spec: WebhookSpec, scope: Scope, /) -> RenderedWebhook:
        request = render_request(spec.request, scope)
        return RenderedWebhook(request, render_success(spec.success, scope), request.shown)

    def rehearse(self, rendered: RenderedWebhook, checks: Checks, /) -> list[str]:
        checks.url(rendered.request.url)
        return []

    def act(self, rendered: RenderedWebhook, context: ActContext) -> Outcome:
        request = rendered.request
        # A playbook may send a key of its own, where the receiver wants another scope than the step.
        headers = {"idempotency-key": context.idempotency_key, **request.headers}
        headers["medic-fencing-token"] = str(context.epoch)
        timeout = context.timeout or _TIMEOUT
        try:
            # Nothing cancels it half-way: a request that is out has happened, so its answer is worth having.
            response = context.client.request(
                request.method,
                request.url,
                headers=headers,
                body=request.body,
                timeout=timeout.total_seconds(),
                max_body=MOST_BYTES,
                before_send=context.before_effect,
            )
        except EgressRefused as error:
            return Failed("egress_refused", error.message, {"url": request.shown["url"]})
        except EgressFailed as error:
            return _no_answer(error, request, context, timeout)
        output, text = describe(response)
        output["url"] = request.shown["url"]
        # Judged before redaction, which may touch the very value that the playbook expects.
        missing = shortfall(rendered.expected, response.status, output["body"], text)
        output = fit_output(output, context.redact)
        if missing is None:
            return Done(output)
        wrong_status = response.status not in rendered.expected.status
        return Failed(
            f"http_{response.status}" if wrong_status else "unexpected_answer",
            f"The webhook {missing}.",
            output,
            retryable=wrong_status and (response.status == 429 or response.status >= 500),
        )


def _no_answer(error: EgressFailed, request: Request, context: ActContext, timeout: timedelta) -> Failed:
    output: dict[str, Json] = {"url": request.shown["url"], "sent": error.sent}
    if error.kind == "timeout":
        message = f"The webhook did not answer within {timeout.total_seconds():g}s."
    else:
        message = f"The webhook gave no whole answer: {context.redact(error.message)}"
    return Failed(error.kind, message, output, retryable=error.kind in {"timeout", "connect"})
