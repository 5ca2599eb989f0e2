"""Requests to addresses that a user gave: webhook steps, webhook targets, the condition ``http``.

`SafeClient` sends them; the functions judge a URL where it is entered, so that a mistake is told at once.
What they say is advice: the client judges again what it connects to.
"""

from medic.egress.allowlist import AllowList
from medic.egress.client import Response, SafeClient
from medic.egress.endpoints import allow_list
from medic.egress.lookup import Resolver
from medic.egress.validation import (
    InvalidURLError,
    get_allowed_hosts,
    is_private_ip,
    is_safe_url,
    resolve_hostname,
    validate_url,
)

__all__ = [
    "AllowList",
    "InvalidURLError",
    "Resolver",
    "Response",
    "SafeClient",
    "allow_list",
    "get_allowed_hosts",
    "is_private_ip",
    "is_safe_url",
    "resolve_hostname",
    "validate_url",
]
