"""Where notifications go: five kinds of targets, all that `medic.models.alerting.Target` may be."""

from collections.abc import Mapping
from typing import Final

from medic.targets.apprise import Apprise
from medic.targets.base import TargetKind
from medic.targets.email import Email
from medic.targets.pagerduty import PagerDuty
from medic.targets.slack import Slack
from medic.targets.webhook import Webhook

KINDS: Final[Mapping[str, TargetKind]] = {
    kind.kind: kind for kind in (Slack(), PagerDuty(), Webhook(), Email(), Apprise())
}

__all__ = ["KINDS", "TargetKind"]
