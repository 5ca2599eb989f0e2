"""`make audit`: bandit over our code, a bill of materials (build/sbom.json), known faults of what the lock names.

Exit code 0: all was looked at, and nothing found.  1: something was found.  2: nothing was found, but the advisories
could not be asked for all packages, which is no pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
CODE = ("medic", "medic_api", "medic_tasks", "migrations", "celeryconfig.py")
BILL = ROOT / "build" / "sbom.json"
SERVICES = ("pypi", "osv")
FOUND, UNKNOWN = 1, 2


def main() -> int:
    results = (look_at_code(), write_bill(), look_at_lock())
    return FOUND if FOUND in results else max(results)


def look_at_code() -> int:
    done = run("bandit", "--quiet", "-c", "pyproject.toml", "-r", *CODE)
    print("code: " + ("no findings of bandit" if done.returncode == 0 else done.stdout or done.stderr))
    return FOUND if done.returncode else 0


def write_bill(*options: str) -> int:
    """What is shipped: the lock of the image, by name, version and hash."""
    BILL.parent.mkdir(exist_ok=True)
    done = run("cyclonedx-py", "requirements", "requirements/base.txt", "--pyproject", "pyproject.toml",
               "--output-reproducible", "--of", "JSON", "-o", str(BILL), *options)  # fmt: skip
    if done.returncode:
        print(f"bill of materials: {done.stderr}")
        return FOUND
    count = len(json.loads(BILL.read_text(encoding="utf-8"))["components"])
    print(f"bill of materials: {count} packages in {BILL.relative_to(ROOT)}")
    return 0


def look_at_lock() -> int:
    """The advisories for every package of the lock, tools and all; the second service where the first is silent."""
    verdict, text = UNKNOWN, ""
    for service in SERVICES:
        done = run("pip-audit", "--vulnerability-service", service, "--require-hashes", "--disable-pip",
                   "-r", "requirements/dev.txt", "--format", "json", "--progress-spinner", "off")  # fmt: skip
        verdict, text = judge(done.stdout)
        if verdict != UNKNOWN:
            break
    print(f"lock: {text}")
    return verdict


def judge(report: str) -> tuple[int, str]:
    """What a report of pip-audit says; one that is none says nothing of any package."""
    try:
        packages: list[Mapping[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        packages = []
    found = [
        f"  {package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or '-'}"
        for package in packages
        for fault in package.get("vulns", ())
    ]
    if found:
        return FOUND, "\n".join(["known faults:", *found])
    silent = [package["name"] for package in packages if "skip_reason" in package]
    if silent or not packages:
        which = f"{len(silent)} of {len(packages)} packages" if packages else "any package"
        return UNKNOWN, (
            f"NOT CHECKED. No advisories could be had for {which}: their service cannot be reached from here, or does"
            " not know them. This is no pass; run it again where pypi.org or api.osv.dev answers."
        )
    return 0, f"no known faults in {len(packages)} packages"


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOOLS / tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
