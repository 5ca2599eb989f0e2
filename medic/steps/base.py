"""What a step type is, what it gets to act with, and what can come of it.

    parse(reader) ─▶ spec ─▶ render(spec, scope) ─▶ rendered ─▶ act(rendered, context) ─▶ outcome
    once per version         pure; a missing value             no transaction open;
                             stops here, nothing sent          all I/O through the context

A type keeps no state.  It never sees the database: what it may know comes through `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope

STEPS_QUEUE = "medic.steps"
SCRIPTS_QUEUE = "medic.scripts"

Interpreter = Literal["bash", "python"]

# --- outcomes


@dataclass(frozen=True, slots=True)
class Recipient:
    """A target that is told something, by name, and by which route."""

    target_id: int
    target: str
    route_id: int | None = None
    level: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell people.  It goes into the outbox in the transaction that records the step."""

    text: str
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The step happened and succeeded.  `output` is what ``${steps.NAME.…}`` reads.

    :param notice: what people are told of it, once per step, however often the step ran.
    """

    output: dict[str, Json] = field(default_factory=dict)
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The step failed.

    :param code: stable: ``timeout``, ``connect``, ``http_503``, ``unexpected_answer``, ``exit`` …; ``retry: {on}``
        is matched against it (`medic.playbook.document.Retry.covers`).
    :param message: one sentence for people, redacted.
    :param retryable: whether another try may help, where the playbook does not say which failures count.
    """

    code: str
    message: str
    output: dict[str, Json] = field(default_factory=dict)
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Park:
    """Not over yet: come back at `until`.

    :param check: a condition that the database alone can judge, so that the due sweep does, set-based:
        ``{kind: heartbeat_received, service_id, since, min_count, status, deadline}`` or
        ``{kind: alert_resolved, alert_id, deadline}``, times as RFC 3339.  None: the step must act again.
    """

    until: datetime
    check: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """A human decides; without a timeout, whenever."""

    timeout: timedelta | None
    on_timeout: Literal["approve", "reject"]
    message: str


Outcome: TypeAlias = Done | Failed | Park | AwaitApproval

# --- ports


class Response(Protocol):
    """An HTTP answer; header names in lower case, `elapsed` in seconds."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def elapsed(self) -> float: ...


class Client(Protocol):
    """The safe client (`medic.egress.SafeClient`): raises `EgressRefused` and `EgressFailed`, nothing else."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        max_body: int = ...,
        redirects: int = ...,
        cancelled: Callable[[], bool] | None = ...,
        before_send: Callable[[], None] | None = ...,
    ) -> Response: ...


class Facts(Protocol):
    """What conditions may ask of the database."""

    def heartbeats_since(self, service_id: int, since: datetime, status: str | None) -> int:
        """Heartbeats of a service that arrived after `since`; without a status, the successes."""
        ...

    def alert_open(self, alert_id: int) -> bool: ...

    def last_acting_step_ended(self) -> datetime:
        """When the last step with an outside effect ended; before any, when the execution started."""
        ...

    def step_ended(self, name: str) -> datetime:
        """When an earlier step ended; one that was skipped, when it was skipped."""
        ...

    def recipients(self, *, target: str | None = None, route: str | None = None) -> tuple[Recipient, ...]:
        """Who is told: a target, the first level of a route, or else whoever the execution's service tells.

        :raises NotFound: when there is nobody.
        """
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """A registered script; `parameters` as `medic.steps.parameters` describes."""

    interpreter: Interpreter
    content: str
    parameters: Mapping[str, Any]
    version: int
    network: bool


class ScriptResult(Protocol):
    """What became of a script (`medic.sandbox.model.ScriptResult`); `duration` in seconds."""

    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def stdout_truncated(self) -> bool: ...
    @property
    def stderr_truncated(self) -> bool: ...
    @property
    def timed_out(self) -> bool: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def duration(self) -> float: ...


class RunScript(Protocol):
    """The sandbox's runner, its mode and limits bound by the engine; raises `SandboxUnavailable` or
    `Invalid`, and then nothing has run.
    """

    def __call__(
        self,
        *,
        interpreter: Interpreter,
        content: str,
        args: Sequence[str],
        env: Mapping[str, str],
        stdin: bytes,
        timeout: float,
        network: bool,
        should_stop: Callable[[], bool],
        before_start: Callable[[], None],
    ) -> ScriptResult: ...


@dataclass(frozen=True, slots=True)
class ActContext:
    """What one attempt acts with.

    :param epoch: the fencing number of this attempt.
    :param idempotency_key: ``<execution>.<step>``, the same over all attempts.
    :param now: the database's time at the claim.
    :param parked_at: when this step first parked; None when it has not.
    :param timeout: the step's; None where neither playbook nor type set one.
    :param default_condition_timeout: the service's ``every`` + ``grace``.
    :param should_stop: true once the execution is cancelled or the lease is lost.
    :param before_effect: called right before the effect; raises when the lease is not surely ours, and that
        exception passes through `act`.
    :param base_environment: what every script sees (the worker's allow-listed variables).
    :param redact: takes every secret out of a text.
    """

    execution_id: str
    step_name: str
    position: int
    epoch: int
    idempotency_key: str
    now: datetime
    parked_at: datetime | None
    timeout: timedelta | None
    default_condition_timeout: timedelta
    should_stop: Callable[[], bool]
    before_effect: Callable[[], None]
    client: Client
    facts: Facts
    load_script: Callable[[str], Script]
    run_script: RunScript
    base_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    redact: Callable[[str], str] = field(default=str, repr=False)


# --- the type


class Rendered(Protocol):
    """A step with its values in.  `shown` is JSON without secrets, for plans, logs and audit."""

    @property
    def shown(self) -> dict[str, Json]: ...


@runtime_checkable
class StepType(Protocol):
    """One step type; see `medic.playbook.step.StepGrammar` for what the grammar reads of it.

    ``parks``: an attempt may end in `Park` or `AwaitApproval`, so a chain is cut behind it.
    """

    type: ClassVar[str]
    queue: ClassVar[str]
    acts: ClassVar[bool]
    parks: ClassVar[bool]
    times_out: ClassVar[bool]
    default_timeout: ClassVar[timedelta | None]

    def parse(self, reader: Reader) -> Any:
        """Read the type's own keys; problems go to the reader, what comes back is frozen."""
        ...

    def on_crash(self, spec: Any, /) -> Literal["retry", "ask"]:
        """What to do when it is unknown whether the step happened and the playbook does not say."""
        ...

    def render(self, spec: Any, scope: Scope, /) -> Rendered:
        """Put the values in.

        :raises Invalid: when one is missing or does not fit.
        """
        ...

    def act(self, rendered: Any, context: ActContext) -> Outcome:
        """Do it."""
        ...


# --- a dry run


class Checks(Protocol):
    """What a type may ask in a dry run.  ``is_whole``: no value is missing that an earlier step will give."""

    @property
    def is_whole(self) -> bool: ...

    def url(self, url: str) -> None:
        """Note an address that the step would reach; whether it may is said beside the step."""
        ...

    def script(self, name: str) -> Script:
        """:raises NotFound: when no script of this name is registered."""
        ...

    def recipients(self, *, target: str | None = None, route: str | None = None) -> Sequence[Recipient]:
        """:raises NotFound: when there is no such target or route, or it is switched off."""
        ...


@runtime_checkable
class Rehearsed(Protocol):
    """A type that can tell before it acts what would stand in its way; a type need not."""

    def rehearse(self, rendered: Any, checks: Checks, /) -> list[str]:
        """What stands in the way, each a sentence; sends, opens and runs nothing.

        :raises Invalid, NotFound: as one more of them.
        """
        ...
