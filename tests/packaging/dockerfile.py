"""docker/Dockerfile and .dockerignore as values, as far as the tests ask."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Instruction:
    word: str
    text: str


def stages() -> tuple[list[Instruction], list[Instruction], list[Instruction]]:
    """What stands before the first FROM, the builder, and the runtime; each stage begins with its FROM."""
    lines = [line for line in _text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    parts: list[list[Instruction]] = [[]]
    for line in whole.splitlines():
        word, _, text = line.partition(" ")
        if word == "FROM":
            parts.append([])
        parts[-1].append(Instruction(word, text.strip()))
    head, builder, runtime = parts
    return head, builder, runtime


def texts(stage: list[Instruction], word: str) -> list[str]:
    """What follows a word, each time that it stands in a stage."""
    return [instruction.text for instruction in stage if instruction.word == word]


def health_command() -> list[str]:
    (check,) = texts(stages()[2], "HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return command


def copied() -> list[tuple[str, str]]:
    """What the builder copies out of the repository, and where to."""
    pairs = []
    for text in texts(stages()[1], "COPY"):
        *sources, target = text.split()
        pairs += [
            (source, target if len(sources) == 1 else f"{target.rstrip('/')}/{Path(source).name}")
            for source in sources
        ]
    return pairs


def is_ignored(path: str) -> bool:
    """Whether a path of the repository, or a folder above it, is left out of the build."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    parts = Path(path).parts
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(
        fnmatch.fnmatchcase(
            candidate if not pattern.startswith("**/") else Path(candidate).name, pattern.removeprefix("**/")
        )
        for pattern in patterns
        for candidate in above
    )


def copy_as_the_builder_does(target: Path) -> None:
    """The builder's sources as it sees them, in a folder."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        below = Path(folder).relative_to(ROOT)
        return [name for name in names if is_ignored(str(below / name))]

    for source, where in copied():
        assert not is_ignored(source), f"{source} is copied, but .dockerignore leaves it out"
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target / where, ignore=ignored)
        else:
            (target / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target / where)


def _text() -> str:
    return (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
