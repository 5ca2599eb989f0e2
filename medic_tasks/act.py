"""Let a claimed step act: with its values put in, its lease kept, its secrets taken out of what it says."""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

import structlog
from pydantic import SecretStr
from sqlalchemy import Engine

from medic import settings as settings_
from medic import vault
from medic.crypto.redaction import Redactor
from medic.egress import SafeClient, allow_list
from medic.errors import MedicError
from medic.executions.claim import Claim
from medic.executions.facts import DatabaseFacts
from medic.machine import Probed, Recovered, Result, Skipped, judge_probe
from medic.playbook.document import Step
from medic.playbook.judgement import holds
from medic.playbook.scope import Scope
from medic.sandbox.environment import build_environment
from medic.sandbox.model import Limits
from medic.sandbox.runner import run_script
from medic.steps import load_types
from medic.steps.base import ActContext, Done, Failed, Outcome
from medic.steps.output import fit, fit_output
from medic.times import parse_time
from medic_tasks.lease import CancelledBeforeEffect, Lease, LeaseLost

log = structlog.get_logger("medic.act")

FALLBACK_CONDITION_TIMEOUT = timedelta(minutes=5)
"""Of a condition that names none, on an execution without a service."""


LONGEST_PROBE = timedelta(seconds=10)
"""Of one request of a probe."""


@lru_cache(maxsize=1)
def client() -> SafeClient:
    """This process's way out."""
    return SafeClient(allow_list(settings_.current()))


@dataclass(slots=True)
class Acting:
    """One attempt at one step."""

    engine: Engine
    claim: Claim
    step: Step
    lease: Lease

    def run(self) -> Result:
        """Act.

        :raises LeaseLost: nothing happened, and nothing may be recorded.
        """
        if self.claim.doubt is not None:
            return self._probe(self.claim.doubt)
        return self._settled_before() or self._act()

    def _probe(self, doubt: dict[str, Any]) -> Probed:
        """Nobody knows whether the step happened: ask, and do nothing."""
        probe = self.step.probe
        if probe is None:
            return Probed("ask", "This step has no probe.", doubt, {})
        since = parse_time(doubt["since"], path="since")
        facts = self._facts()
        scope, redactor = self._scope(facts)
        kind = load_types()[probe.type]
        outcome: Outcome
        try:
            rendered = kind.render(probe.spec, scope)
            base = self._context(facts, redactor())
            # A condition counts its time from the doubt on; a request may not hold up a human who knows better.
            timeout = probe.timeout if kind.parks else min(probe.timeout, LONGEST_PROBE)
            outcome = kind.act(rendered, replace(base, parked_at=since, timeout=timeout))
            outcome = _storable(outcome, redactor())
        except CancelledBeforeEffect:
            outcome = Failed("cancelled", "Cancelled before the probe asked.")
        except MedicError as error:
            outcome = Failed("cannot_probe", redactor().text(error.message))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - a step type may be anybody's
            outcome = _defect(self.step, error, redactor())
        return judge_probe(probe, outcome, doubt, until=since + probe.timeout, now=self.claim.now)

    def _settled_before(self) -> Result | None:
        """What there is to say without acting: a human decided, or the alert is over."""
        claim, step = self.claim, self.step
        if claim.approval == "approved":
            return Done({"approved": True})
        if claim.approval == "rejected":
            return Failed("rejected", "The approval was rejected.")
        if load_types()[step.type].acts and claim.alert_open is False and step.only_while == "alert_open":
            return Recovered()
        return None

    def _act(self) -> Result:
        step = self.step
        kind = load_types()[step.type]
        facts = self._facts()
        scope, redactor_of_used = self._scope(facts)
        try:
            if step.when is not None and not holds(step.when, scope):
                return Skipped("Its condition does not hold.")
            rendered = kind.render(step.spec, scope)
        except MedicError as error:
            return Failed("cannot_render", redactor_of_used().text(error.message))
        except Exception as error:  # noqa: BLE001 - a step type may be anybody's
            return _defect(step, error, redactor_of_used())
        redactor = redactor_of_used()
        try:
            return _storable(kind.act(rendered, self._context(facts, redactor)), redactor)
        except CancelledBeforeEffect:
            return Failed("cancelled", "Cancelled before the step acted.")
        except MedicError as error:
            return Failed(error.code, redactor.text(error.message))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return _defect(step, error, redactor)

    def _scope(self, facts: DatabaseFacts) -> tuple[Scope, Callable[[], Redactor]]:
        """What references stand for, and what takes the secrets that were used so far out of a text."""
        used: dict[str, SecretStr] = {}

        def secret(name: str) -> str:
            value = facts.secret(name)
            used[name] = SecretStr(value)
            return value

        scope = Scope(variables=self.claim.variables, steps=self.claim.results, secret=secret)
        return scope, lambda: Redactor(used)

    def _facts(self) -> DatabaseFacts:
        current = settings_.current()
        ring = vault.key_ring(current) if current.secrets_key else None
        return DatabaseFacts(self.engine, self.claim, ring)

    def _context(self, facts: DatabaseFacts, redactor: Redactor) -> ActContext:
        claim, step = self.claim, self.step
        current = settings_.current()
        return ActContext(
            execution_id=str(claim.execution_id),
            step_name=step.name,
            position=claim.position,
            epoch=claim.epoch,
            idempotency_key=f"{claim.execution_id}.{step.name}",
            now=claim.now,
            parked_at=claim.parked_at,
            timeout=step.timeout,
            default_condition_timeout=self._patience(),
            should_stop=self.lease.should_stop,
            before_effect=self.lease.before_effect,
            client=client(),
            facts=facts,
            load_script=facts.load_script,
            run_script=functools.partial(run_script, mode=current.sandbox, limits=Limits()),
            base_environment=build_environment(
                worker=os.environ,
                additional=current.additional_script_env_vars,
                execution_id=claim.execution_id,
                playbook_id=claim.playbook_id,
                service_id=claim.service_id,
                variables={},
            ),
            redact=redactor.text,
        )

    def _patience(self) -> timedelta:
        """How long a condition waits that does not say: one period of the service and its grace."""
        seconds = self.claim.patience_s
        return FALLBACK_CONDITION_TIMEOUT if seconds is None else timedelta(seconds=seconds)


def _storable(outcome: Outcome, redactor: Redactor) -> Outcome:
    """The outcome as the database takes it and as it may be shown, whatever the step type left in it.

    :raises TypeError, ValueError: when it holds what is no JSON.
    """
    if not isinstance(outcome, Done | Failed):
        return outcome
    outcome = replace(outcome, output=fit_output(outcome.output, redactor.text))
    json.dumps(outcome.output, allow_nan=False)
    if isinstance(outcome, Failed):
        return replace(outcome, message=str(fit(outcome.message, redactor.text)))
    return outcome


def _defect(step: Step, error: Exception, redactor: Redactor) -> Failed:
    """A defect of a step type must not leave the execution to be taken for a lost worker."""
    trace = redactor.text("".join(traceback.format_exception(error)))
    log.error("step.defect", type=step.type, trace=trace)
    return Failed("defect", f"The step type {step.type} failed with {type(error).__name__}.")
