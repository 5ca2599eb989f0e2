"""Names of playbooks and steps.  The original took any text; such a name is folded, with a warning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

PLAYBOOK_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
STEP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


def fold(text: str, pattern: re.Pattern[str]) -> str:
    """Lower the case and put ``-`` for what may not be in a name; empty when nothing is left."""
    if pattern.fullmatch(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    dotted = "." if pattern is PLAYBOOK_NAME else ""
    folded = re.sub(rf"[^a-z0-9_{dotted}]+", "-", plain).strip("-._")
    return folded[: 128 if dotted else 64].rstrip("-._")


def step_names(titles: Iterable[str]) -> list[str]:
    """Fold step names; names that are valid as written keep it, the others give way with ``-2``, ``-3`` …

    A title that cannot be folded gives an empty name.
    """
    titles = list(titles)
    taken = {title for title in titles if STEP_NAME.fullmatch(title)}
    names = []
    for title in titles:
        name = fold(title, STEP_NAME)
        if name and name != title:
            base, count = name, 1
            while name in taken:
                count += 1
                name = f"{base[:58]}-{count}"
            taken.add(name)
        names.append(name)
    return names
