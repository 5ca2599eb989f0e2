"""What waits in a spool, divided into requests."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from medic.client.exchange import BATCH_BYTES
from medic.client.heartbeat import Heartbeat, clock
from medic.client.spool import Spool, id_of

Waiting = tuple[str, Heartbeat]
"""A file of the spool, and its signal."""


def loads(
    spool: Spool,
    url: str,
    *,
    first: Collection[str],
    last: Collection[str],
    skipped: Collection[str],
    most: int,
) -> Iterator[list[Waiting]]:
    """The signals for this server, oldest first, a request at a time.

    :param first: ids that come before all others, in requests of their own.
    :param last: ids that come behind all others.
    :param skipped: services to be left out, unless ``first``; it may grow between two requests.
    :param most: signals in one request.
    """
    names = sorted(spool.waiting(), key=lambda name: id_of(name) in last)
    own = [name for name in names if id_of(name) in first]
    for group in (own, [name for name in names if id_of(name) not in first]):
        load: list[Waiting] = []
        size = 0
        for name in group:
            spooled = spool.read(name)
            if spooled is None or spooled.url not in {None, url}:
                continue
            bytes_ = len(json.dumps(spooled.heartbeat.body(sent_at=clock()))) + 2
            if load and (len(load) >= most or size + bytes_ > BATCH_BYTES):
                yield load
                load, size = [], 0
            if group is own or spooled.heartbeat.service not in skipped:
                load.append((name, spooled.heartbeat))
                size += bytes_
        if load:
            yield load
