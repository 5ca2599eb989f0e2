"""The one error tree.

    MedicError
    ├── Invalid              400 / 422   the input is wrong; says where and what to do
    ├── Unauthenticated      401         no key, or not one of ours
    ├── Forbidden            403         the key lacks a scope, or may not touch this object
    ├── NotFound             404
    ├── Conflict             409         true now, may be otherwise later
    │   └── PreconditionFailed  412      If-Match names another version
    ├── TooLarge             413
    ├── Throttled            429         carries when to come back
    ├── Unavailable          503         Medic cannot do it now; carries when to come back
    ├── EgressRefused        -           an address that the safe client does not touch
    ├── EgressFailed         -           the address is fine, the exchange was not
    ├── SandboxUnavailable   -           this machine cannot hold a script safely
    └── Misconfigured        -           a setting is wrong; the start stops with its text

Each class has a stable ``code``; clients match on it, texts may change.  ``medic_api`` renders the
tree once, as RFC 9457 problem details.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (a dotted path), what, and for YAML the line and column from 1."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None


class MedicError(Exception):
    """Whatever Medic raises on purpose.  ``str()`` of it may be shown to the caller."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(MedicError):
    """The input is wrong.  ``problems`` names every field that is."""

    code = "invalid"
    status = 422

    def __init__(self, message: str, *, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @classmethod
    def at(cls, path: str, message: str) -> Invalid:
        """One field is wrong."""
        return cls(f"{path}: {message}" if path else message, problems=(Problem(path, message),))


class Malformed(Invalid):
    """The body could not be read at all."""

    code = "malformed"
    status = 400


class Unauthenticated(MedicError):
    code = "unauthenticated"
    status = 401


class Forbidden(MedicError):
    code = "forbidden"
    status = 403


class NotFound(MedicError):
    code = "not_found"
    status = 404


class Conflict(MedicError):
    code = "conflict"
    status = 409


class PreconditionFailed(Conflict):
    code = "precondition_failed"
    status = 412


class TooLarge(MedicError):
    code = "too_large"
    status = 413


class Throttled(MedicError):
    """Too many calls; ``retry_after`` is in seconds."""

    code = "throttled"
    status = 429

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(MedicError):
    """Medic cannot do it now; ``retry_after`` is in seconds."""

    code = "unavailable"
    status = 503

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EgressRefused(MedicError):
    """The safe client does not touch this address.

    ``str()`` is the same for every reason, so that a caller cannot map the network with it;
    ``reason`` is for the log.
    """

    code = "egress_refused"

    def __init__(self, reason: str, *, message: str = "Invalid webhook URL") -> None:
        super().__init__(message)
        self.reason = reason


class EgressFailed(MedicError):
    """The address is allowed, but no whole answer came.

    ``kind`` is ``timeout``, ``connect``, ``tls``, ``protocol``, ``too_large`` or ``cancelled``; ``sent`` is
    true unless it is certain that not one byte of the request left.
    """

    code = "egress_failed"

    def __init__(self, message: str, *, kind: str, sent: bool) -> None:
        super().__init__(message)
        self.kind = kind
        self.sent = sent


class SandboxUnavailable(MedicError):
    code = "sandbox_unavailable"


class Misconfigured(MedicError):
    code = "misconfigured"
