"""What Medic tells about itself: logs, metrics and traces.

Importing anything here loads neither the OpenTelemetry SDK nor gRPC; `traces.configure_tracing` does, and
only with ``OTEL_ENABLED=true``.
"""
