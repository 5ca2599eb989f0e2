"""`make audit`: what is no answer of the advisories' service is no pass; the bill names all that is shipped."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("requirements_audit", ROOT / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


CLEAN = {"name": "good", "version": "1.0", "vulns": []}
SILENT = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}
FAULTY = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"]}]}


def test_a_lock_without_known_faults_passes(audit: Any) -> None:
    assert audit.judge(report(CLEAN, CLEAN)) == (0, "no known faults in 2 packages")


def test_a_known_fault_is_named_with_where_it_is_mended(audit: Any) -> None:
    verdict, text = audit.judge(report(CLEAN, SILENT, FAULTY))
    assert verdict == 1
    assert "bad 2.0: PYSEC-1, mended in 2.1, 3.0" in text


@pytest.mark.parametrize(
    "written", ["", "Traceback …", "{}", report(), report(CLEAN, SILENT), report(SILENT)]
)
def test_silence_is_no_pass(audit: Any, written: str) -> None:
    verdict, text = audit.judge(written)
    assert verdict == 2
    assert "NOT CHECKED" in text
    assert "no pass" in text


def test_the_bill_of_materials_names_each_package_of_the_image(
    audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill = ROOT / "build" / f"{tmp_path.name}.json"
    monkeypatch.setattr(audit, "BILL", bill)
    try:
        assert audit.write_bill("--no-validate") == 0  # reading the schema of CycloneDX takes ten seconds
        written = json.loads(bill.read_text(encoding="utf-8"))
    finally:
        bill.unlink(missing_ok=True)
    lock = (ROOT / "requirements" / "base.txt").read_text(encoding="utf-8")
    named = {f"{part['name']}=={part['version']}" for part in written["components"]}
    assert named == set(re.findall(r"^([a-z0-9._-]+==[^ \\;]+)", lock, re.MULTILINE))
    assert all(part["externalReferences"][0]["hashes"] for part in written["components"])
