"""The playbook version that an execution is pinned to, parsed once per process."""

from __future__ import annotations

from functools import lru_cache

from medic.playbook.document import Playbook
from medic.playbook.grammar import parse
from medic.steps import load_types
from medic.times import MAX_DURATION


@lru_cache(maxsize=256)
def pinned(source: str) -> Playbook:
    """A version's text never changes, so its parse may be kept.  The cap on steps held when it was stored."""
    return parse(source, load_types(), longest_step=MAX_DURATION).playbook
