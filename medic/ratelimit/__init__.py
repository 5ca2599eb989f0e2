"""How many calls may pass: by class and subject, in Redis or within the process.

    limiter = limiter_from(settings)
    decision = limiter.hit("management", key_id, now=time.monotonic())
    response.headers.update(headers(decision))

`policy` says what is limited, `window` and `gcra` judge (pure), `scripts` are the same in Redis, `lease`
spares heartbeats the round trip, `circuit` says when to leave Redis alone.
"""

from medic.ratelimit.choice import TYPES, check, limiter_from
from medic.ratelimit.decision import Decision, headers
from medic.ratelimit.limiter import Limiter
from medic.ratelimit.policy import RateClass

__all__ = ["TYPES", "Decision", "Limiter", "RateClass", "check", "headers", "limiter_from"]
