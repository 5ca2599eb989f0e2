"""When an alert opens and closes.  Pure: no clock, no database, no network.

    new ──▶ up ──▶ late ──▶ down ──▶ up          any ◀──▶ paused

`evaluate` walks one service's time from `State.folded_until` to `now`: signals in the order of their
arrival, and between them every deadline that passed.  One call after a day gives the transitions,
with the times, that a call at every tick would have given.

**The caller's part.**  The state is read and written under the lock of its row.  Ids of a service's
signals grow in commit order: ingest allocates them while it holds that lock.  Then `folded_id` is a
cursor that loses nothing; a signal that arrived before `folded_until` but was seen after it counts
from there.  While `Verdict.quiet` holds, ingest may set `last_success_at` (the greater of it and the
event time), `due_at` (that plus the period) and, best, `folded_id`, without a call, for a success that
is no history and arrives before `due_at`.  A later call with `last_success_at` so advanced and no
signals gives the same result.  Any other signal but a `log` ends `quiet` and makes the row due.
Every tick's `blind` agrees with the next one's about the past.

**Rules that the design leaves open.**

1. At one moment deadlines pass before signals arrive: a signal that arrives exactly at the end of
   grace is too late.  Transitions are dated by when they became true (the end of grace, the event
   time of a signal) but never before the transition before them.
2. `late`: a deadline has passed, and no alert is open; also while misses stay below the threshold.
   A service that never beat is `new`, `late` or `down`.
3. The alert opens with the reason that brings the counter to `failure_threshold`; others join when
   they come while the counter is there.  One success resets the counter, not the alert.
4. `every`: deadlines stand at whole periods after the last success, failure, or fresh start.
5. Calendars: a final signal stands for the last occurrence, when that is still unjudged or its grace
   still runs, else for the nearest one: an early beat is accepted, a second one changes nothing, and
   a late one does not stand for tomorrow.  It settles everything up to that occurrence.  Failures of
   one occurrence count once; the failure of a missed occurrence takes the miss's place.  For `every`
   it does so when the failure happened before the end of the miss's grace.
6. `at_least`: becoming short counts one, each further whole window one more; `failure_threshold`
   applies.  Only N in the window resets the counter of a short service.  History counts in the window
   of its event time.
7. Final signals have the order of their event times: a success older than the last failure is life
   but no recovery, a failure older than the last success is no alert.
8. History takes back each miss whose span holds it or came before it, and settles the occurrence that
   is awaited; the alert ends when the counter so falls below `failure_threshold`.  It changes nothing
   that is older than the last success, failure or fresh start.  A failure among history only ends its
   run.
9. Blind: a service on `every` or `at_least` starts afresh at the end of each interval; an open alert
   stays, its counter stands still meanwhile.
10. A service that never beat opens an alert for silence once; a failure may still open one.
11. A new policy starts afresh at its `started_at`, behind what arrived until then: `every` goes on
    from the last success if that is not already missed by the new schedule; otherwise, and for
    calendars and windows, from `started_at`.  An open alert keeps the reasons that are true under the new policy.  A pause closes
    the alert and clears the counter; what arrives during it is life, ends runs, and alerts of nothing,
    however late it is folded in.
12. Of one silence on a calendar at most 10,000 occurrences are counted in one call; further ones are
    judged without being counted.
13. Runs: every final signal with a run_id ends that run; without one, complete, fail and a numbered
    exit end the newest, a plain `ok` none.  A start that comes after its end opens nothing; a start
    that arrives after its own `max_runtime` is not judged.  An overrun is found at its moment only,
    so a manual resolve silences it for good.  Successes later than the run's start, other than its
    own end and history, count toward `lost`.
14. A manual resolve holds until a success, or until the counter has grown by `failure_threshold`.
"""

from medic.evaluator.columns import COLUMNS, carry, restore
from medic.evaluator.policies import first_state, resolved_by_hand
from medic.evaluator.timeline import evaluate
from medic.evaluator.values import (
    Change,
    Interval,
    Kind,
    OpenRun,
    Policy,
    Reason,
    RunChange,
    RunEvent,
    RunMark,
    Signal,
    State,
    Status,
    Transition,
    Verdict,
)

__all__ = [
    "COLUMNS",
    "Change",
    "Interval",
    "Kind",
    "OpenRun",
    "Policy",
    "Reason",
    "RunChange",
    "RunEvent",
    "RunMark",
    "Signal",
    "State",
    "Status",
    "Transition",
    "Verdict",
    "carry",
    "evaluate",
    "first_state",
    "resolved_by_hand",
    "restore",
]
