"""Deliveries: one notification to one target, a row of the outbox with its own lease.

    outbox  (the sweep's transaction)  a pending row, due now
    claim   (one transaction)          the next message of a target: one row, or the rows of a storm
    send    (no transaction)           the target's kind speaks to the world
    record  (one transaction)          delivered, due again later, or failed; guarded by owner and epoch

The row is the truth; messages on the queue carry a target's id and nothing else.  A row that leads a message
has ``carried_by IS NULL``; those that it carries follow it from its first claim on, so that every try of the
message says the same under the same id.
"""
