"""What a check found, and the checks of processes: `medic doctor --worker` is a probe, and must be light."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medic import liveness
from medic.settings import Settings

Verdict = Literal["ok", "warn", "fail"]
Kind = Literal["worker", "beat"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: of what, how it stands, and in words."""

    name: str
    verdict: Verdict
    text: str


def check_process(
    settings: Settings, kind: Kind, *, now: float, name: str | None = None, must_run: bool = True
) -> Iterator[Finding]:
    """The workers or the beat of this machine, by their liveness files.

    :param now: seconds since the epoch.
    :param name: only the worker that was started under this name.
    :param must_run: whether none at all is a failure (a probe) or a hint (they may run elsewhere).
    """
    ages = liveness.ages(settings, kind, now=now)
    if name is not None:
        ages = {seen: age for seen, age in ages.items() if seen.partition("@")[0] == name}
    if not ages:
        what = f"no {kind} {name}" if name else f"no {kind}"
        yield Finding(
            kind,
            "fail" if must_run else "warn",
            f"{what} has shown itself in {liveness.folder(settings)}",
        )
    for seen, age in ages.items():
        title = kind if seen == kind else f"{kind} {seen}"
        if age > liveness.MAX_AGE_S:
            allowed = f"{liveness.MAX_AGE_S:.0f} s"
            yield Finding(
                title, "fail", f"no sign of life for {age:.0f} s (allowed: {allowed}): it is stuck or gone"
            )
        else:
            yield Finding(title, "ok", f"showed itself {age:.0f} s ago")
