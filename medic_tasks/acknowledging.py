"""Acknowledgements that settle in this process whatever the broker says.

kombu forgets a message only after Redis took its acknowledgement.  When that command runs into its time-out (a
connection that went silent), Celery logs it and never asks again: the message stays counted as being worked on, and
with a prefetch of one for each slot that slot takes nothing more until the worker restarts.  Here the slot is free
again; what Redis kept comes back after the visibility time-out, and its claim finds the step done.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from kombu.transport import redis as transport
from kombu.transport import virtual

log = structlog.get_logger("medic.acknowledging")


class QoS(transport.QoS):
    """kombu's, but for a broker that does not answer."""

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, lambda: super(QoS, self).ack(delivery_tag))  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, lambda: super(QoS, self).reject(delivery_tag, requeue=requeue))  # type: ignore[no-untyped-call]

    def _settle(self, delivery_tag: str, tell: Callable[[], None]) -> None:
        try:
            try:
                tell()
            except self.channel.connection_errors:
                tell()  # redis-py dropped that connection; this is a fresh one
        except self.channel.connection_errors as error:
            log.warning("broker.not_acknowledged", delivery_tag=delivery_tag, error=type(error).__name__)
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]


def install() -> None:
    """Let every Redis channel of this process settle so (Sentinel's is a subclass)."""
    transport.Channel.QoS = QoS
