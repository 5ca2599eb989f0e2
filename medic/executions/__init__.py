"""The execution protocol: PostgreSQL decides, Celery carries hints, and whoever comes late is fenced."""
