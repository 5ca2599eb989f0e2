"""Medic: the domain.  Knows neither Flask nor Celery tasks."""

__version__ = "0.1.0"
