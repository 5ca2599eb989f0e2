"""What Medic tells about itself: logs, metrics and traces.

Importing anything here loads neither the OpenTelemetry SDK nor gRPC; `traces.configure_tracing` does, and
only with ``OTEL_ENABLED=true``.
"""

from pathlib import Path

GRANIAN_LOGS = Path(__file__).with_name("granian_logs.json")
"""granian's ``--log-config``: its records in Medic's format."""
