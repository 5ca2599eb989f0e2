"""A playbook as it is after reading: frozen values, nothing left to look up but values for ``${…}``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from medic.errors import Problem
from medic.playbook.expression import Expression
from medic.playbook.scope import Json
from medic.playbook.template import Template

OnFailure = Literal["fail", "continue", "escalate"]
OnCrash = Literal["retry", "fail", "ask"]
OnlyWhile = Literal["alert_open", "always"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """When the playbook runs by itself.

    A service matches when its name fits `service_pattern` (a glob, in lower case), it has every one of
    `tags`, and its priority is one of `priorities` (empty: any).  The alert must have one of `reasons`
    (empty: any) and the counter must have reached `consecutive_failures`.  With `repeat_every` it fires again
    while the alert stays open; else once per alert.  `shadow` only records what it would have started.
    """

    service_pattern: str = "*"
    tags: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    consecutive_failures: int = 1
    cooldown: timedelta = timedelta(0)
    repeat_every: timedelta | None = None
    mode: Literal["live", "shadow"] = "live"


@dataclass(frozen=True, slots=True)
class Approval:
    """Who must agree before the first step; ``timeout`` means: approved by itself when the time is over."""

    mode: Literal["none", "required", "timeout"] = "none"
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Executions that may be open at a time; None: no limit."""

    per_service: int | None = None
    per_playbook: int | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared input.  Without a default it is required when an execution starts."""

    name: str
    required: bool
    default: Json = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed step is tried, and when.

    :param attempts: tries in all, the first one included.
    :param backoff: the first pause; each further one is `factor` times as long.
    :param jitter: chance spreads a pause by this part of it, up and down; 0 to 1.
    :param on: which failures; empty: those that the step type calls retryable.
    """

    attempts: int = 1
    backoff: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    jitter: float = 0.1
    on: tuple[str, ...] = ()

    def covers(self, code: str, *, retryable: bool) -> bool:
        """Whether a failure is one to try again after; `code` as in `medic.steps.base.Failed`.

        ``503`` means the code ``http_503``, ``5xx`` each of its class, any other word the code itself.
        """
        if not self.on:
            return retryable
        return names_failure(self.on, code)


def names_failure(words: Iterable[str], code: str) -> bool:
    """Whether one of the words names this failure."""
    return any(
        code in {word, f"http_{word}"} or (word.endswith("xx") and code.startswith(f"http_{word[0]}"))
        for word in words
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """What finds out, without a human, whether a step happened whose worker was lost.

    A success says that it happened; a failure of `retry_on` that it did not; one of `fail_on` that it failed.  Anything
    else is asked again each `interval`, and after `timeout` it is as `otherwise` says.
    """

    type: str
    spec: Any
    interval: timedelta
    timeout: timedelta
    retry_on: tuple[str, ...]
    fail_on: tuple[str, ...]
    otherwise: Literal["ask", "retry", "fail"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    :param name: unique in the playbook, made of ``a-z 0-9 _ -``; `title` is what the author wrote.
    :param spec: what the step's type made of its own keys.
    :param timeout: None where neither author nor type set one.
    :param on_crash: what to do when it is unknown whether the step happened, defaults applied.
    """

    position: int
    name: str
    title: str
    type: str
    spec: Any
    when: Expression | None
    timeout: timedelta | None
    retry: Retry
    on_failure: OnFailure
    on_crash: OnCrash
    only_while: OnlyWhile
    line: int
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Playbook:
    """A whole playbook.  `version` is the author's own number and decides nothing."""

    name: str
    title: str
    description: str
    trigger: Trigger | None
    approval: Approval
    concurrency: Concurrency
    lock: Template | None
    deadline: timedelta | None
    variables: Mapping[str, Variable]
    steps: tuple[Step, ...]
    metadata: Mapping[str, Json] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True, slots=True)
class Parsed:
    """A valid playbook, and what is odd about it."""

    playbook: Playbook
    warnings: tuple[Problem, ...]
