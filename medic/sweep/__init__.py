"""The monitor sweep: services that are due, their verdict, and what follows from it.

Rows are claimed in bounded batches, one transaction each, with SKIP LOCKED: several sweepers share the
work.  A sweep costs what is due, not what exists; one that was missed is made up for by what is due
still.  A row that cannot be judged, or whose verdict cannot be written, is pushed ahead, logged and
counted, and stops nobody else.
"""

from medic.sweep.batch import BATCH, SET_ASIDE, sweep, sweep_batch
from medic.sweep.rows import policy_of, restore
from medic.sweep.swept import Swept

__all__ = ["BATCH", "SET_ASIDE", "Swept", "policy_of", "restore", "sweep", "sweep_batch"]
