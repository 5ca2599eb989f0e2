"""The image is for two machines: what the lock names must have wheels for both.

The lock's hashes do not tell which file they are of, so the index is asked, by a dry run of the install.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.packaging.dockerfile import ROOT, stages, texts
from tests.packaging.uv import LOCKED, uv

BASE = ROOT / "requirements" / "base.txt"


def image_python() -> str:
    (image,) = texts(stages()[0], "ARG")
    found = re.search(r"python:(\d+\.\d+)-slim", image)
    assert found
    return found[1]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_has_a_wheel_of_the_lock_for(machine: str, tmp_path: Path) -> None:
    words = uv(
        "pip", "install", "--dry-run", "--target", tmp_path, *LOCKED, "--requirement", BASE,
        "--python-platform", f"{machine}-manylinux_2_28", "--python-version", image_python(),
    )  # fmt: skip
    taken = dict(re.findall(r"^ \+ ([a-z0-9._-]+)==(\S+)$", words, re.MULTILINE))
    named = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", BASE.read_text(), re.MULTILINE))
    # A line with a marker may be for another Python or another system.
    marked = set(re.findall(r"^([a-z0-9._-]+)==\S+ ;", BASE.read_text(), re.MULTILINE))
    assert set(named) - marked <= set(taken)
    assert taken.items() <= named.items()


def test_a_machine_without_wheels_would_be_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"has\s+no\s+usable\s+wheels"):
        uv(
            "pip", "install", "--dry-run", "--target", tmp_path, *LOCKED, "--requirement", BASE,
            "--python-platform", "wasm32-pyodide2024", "--python-version", image_python(),
        )  # fmt: skip
