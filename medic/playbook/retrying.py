"""``retry:`` of a step: ``3``, or ``{attempts, backoff, factor, jitter, on}``."""

from __future__ import annotations

import re
from datetime import timedelta

from medic.playbook.document import Retry
from medic.playbook.findings import suggest
from medic.playbook.reader import Reader

_MOST_ATTEMPTS = 20
_CODES = (
    "timeout",
    "connect",
    "tls",
    "protocol",
    "too_large",
    "unexpected_answer",
    "exit",
    "signal",
    "4xx",
    "5xx",
)
_STATUS = re.compile(r"[1-5][0-9][0-9]|[1-5]xx", re.ASCII)


def read_retry(reader: Reader) -> Retry:
    """Read the key; an absent one means one try and no more."""
    if not reader.is_mapping("retry"):
        return Retry(attempts=reader.whole("retry", 1, least=1, most=_MOST_ATTEMPTS))
    inner = reader.mapping("retry")
    assert inner is not None
    usual = Retry()
    on = read_failures(inner, "on")
    retry = Retry(
        attempts=inner.whole("attempts", 3, least=1, most=_MOST_ATTEMPTS),
        backoff=inner.duration("backoff", usual.backoff) or timedelta(0),
        factor=inner.number("factor", usual.factor, least=1, most=10),
        jitter=inner.number("jitter", usual.jitter, least=0, most=1),
        on=on,
    )
    inner.finish()
    return retry


def read_failures(reader: Reader, key: str) -> tuple[str, ...]:
    """A list of failures: statuses, classes of them, and the words of the step types."""
    words = reader.words(key)
    for word in words:
        if word not in _CODES and not _STATUS.fullmatch(word):
            reader.problem(
                f"'{word[:40]}' is no failure that is known here{suggest(word, _CODES)}", key, near=word
            )
    return words
