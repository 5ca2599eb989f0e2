"""Helm's strict lint of the chart, by the engine that comes as a wheel; `make lint` runs it."""  # noqa: INP001 - a tool, no package

import sys
from pathlib import Path

CHART = Path(__file__).with_name("medic")
INFO = 1
"""Severity of what is only recommended."""


def main() -> int:
    """How many findings there are; each is printed."""
    try:
        import helm_python  # noqa: PLC0415 - it may be missing
    except ImportError:
        print("charts/medic is not linted: Helm's engine has no wheel for this machine.")  # noqa: T201 - a tool's output
        return 0
    report = helm_python.lint(CHART, strict=True, namespace="medic", kube_version="v1.29.0")
    found = [message for message in report["messages"] if message["severity"] > INFO]
    for message in found:
        print(f"charts/medic/{message['path']}: {message['error']}")  # noqa: T201 - see above
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
