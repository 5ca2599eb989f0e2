"""Every table; importing this module makes ``Base.metadata`` whole."""

from medic.models import access, alerting, executions, monitoring, playbooks

__all__ = ["access", "alerting", "executions", "monitoring", "playbooks"]
