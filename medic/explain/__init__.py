"""Why an alert opened, or did not, and why nobody was told: the inputs, and each rule's verdict on them.

Nothing is decided here.  The state of a service at a time comes from the evaluator that the sweep calls, fed with what
is stored up to that time; the rest is read off the rows that the decisions left.
"""

from medic.explain.alert import AlertExplained, explain_alert
from medic.explain.rules import Rule
from medic.explain.service import ServiceExplained, explain_service

__all__ = ["AlertExplained", "Rule", "ServiceExplained", "explain_alert", "explain_service"]
