"""Scripts run for real here; each test says only what differs from a plain run."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from medic.sandbox import Limits, ScriptResult, remove_leftovers, run_script


class Run(Protocol):
    def __call__(self, interpreter: str, content: str, **changes: Any) -> ScriptResult: ...


@pytest.fixture
def base(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A base folder for private folders.

    ``reachable`` (the default): everybody may pass through, so root's scripts get a user id of their own.
    ``closed``: below a closed folder, so that they keep the worker's id and Landlock stands alone.
    """
    way = getattr(request, "param", "reachable")
    if os.uname().sysname != "Linux":
        pytest.skip("the cage is made of Linux's walls")
    with tempfile.TemporaryDirectory(prefix="scripts-") as name:
        outer = Path(name)
        outer.chmod(0o711 if way == "reachable" else 0o700)
        yield outer / "base"
        assert remove_leftovers(outer / "base") == 0


@pytest.fixture
def run(base: Path) -> Run:
    def run(interpreter: str, content: str, **changes: Any) -> ScriptResult:
        plain: dict[str, Any] = {
            "args": [],
            "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            "stdin": b"",
            "timeout": 20,
            "network": False,
            "mode": "required",
            "limits": Limits(grace=0.3),
            "should_stop": lambda: False,
            "base": base,
        }
        return run_script(interpreter=interpreter, content=content, **plain | changes)  # type: ignore[arg-type]

    return run


@pytest.fixture
def mark() -> str:
    """Goes into a script's environment, to find its processes again."""
    return uuid.uuid4().hex


def marked(mark: str) -> list[int]:
    """Living processes that carry the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], bool], *, seconds: float = 15) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def all_marked() -> Callable[[str], list[int]]:
    return marked


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    return until
