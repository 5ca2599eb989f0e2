"""Takes signals to Medic: at once, or to the spool and from there as soon as it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum

from medic.client.address import Address
from medic.client.exchange import Answer, Verdict, post
from medic.client.heartbeat import Heartbeat, clock
from medic.client.notices import Notice, Tell
from medic.client.spool import Spool, id_of

TRY_S = 3.0
"""How long one try may take."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_MOST_BROKEN = 5
_LONG_AWAY = timedelta(hours=1)


class Fate(Enum):
    """What became of a signal."""

    SENT = "sent"
    KEPT = "kept"
    """In the spool, for later."""
    REJECTED = "rejected"
    LOST = "lost"
    """Neither sent nor kept."""


class Courier:
    """Speaks to one server and empties one spool.  No method raises; threads may share it."""

    def __init__(self, address: Address | None, spool: Spool | None, tell: Tell) -> None:
        self._address = address
        self._spool = spool
        self._tell = tell
        self._not_before = 0.0  # monotonic: Medic asked for patience, or was just not there

    @property
    def pause(self) -> float:
        """Seconds for which Medic is better left alone."""
        return max(0.0, self._not_before - time.monotonic())

    def deliver(self, heartbeat: Heartbeat, *, within: float = TRY_S, keep: bool = True) -> Fate:
        """One try to send a fresh signal; what cannot be sent goes to the spool.

        :param within: seconds; with none left it goes to the spool at once.
        :param keep: False: a signal that is worth nothing later.
        """
        if self._address is not None and within > 0:
            answer = self._try(heartbeat, within)
            if answer.verdict is Verdict.STORED:
                return Fate.SENT
            if answer.verdict is Verdict.REFUSED:
                self._reject(heartbeat, answer)
                return Fate.REJECTED
            self._explain(heartbeat, answer)
        return self.keep(heartbeat) if keep else Fate.LOST

    def keep(self, heartbeat: Heartbeat) -> Fate:
        """Put a signal in the spool."""
        if self._spool is None:
            return Fate.LOST
        try:
            self._spool.put(heartbeat, self._address.url if self._address else None)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self._tell(Notice.NO_SPOOL, f"signals cannot be kept in {self._spool.folder} ({why}).")
            return Fate.LOST
        self._trim()
        return Fate.KEPT

    def flush(self, *, first: Sequence[str] = (), until: float, stop: threading.Event) -> float | None:
        """Send what waits for this server, oldest first.

        :param first: ids of signals that go before all others, since they are fresh.
        :param until: monotonic time at which to leave off.
        :returns: seconds after which to try again; None when nothing is left that could be sent.
        """
        if self._spool is None or self._address is None:
            return None
        self._trim()
        unwelcome: set[str] = set()
        broken = 0
        for name in self._in_order(first):
            now = time.monotonic()
            if stop.is_set() or now >= until:
                return 0.0
            if self.pause:
                return self.pause
            if (
                id_of(name) in first
            ):  # each on its own: a start that Medic stumbles over must not hold its end
                unwelcome.clear()
            answer = self._send_waiting(self._spool, name, unwelcome, within=min(TRY_S, until - now))
            if answer is None:
                continue
            if answer.verdict is Verdict.BAD_KEY:
                return None
            if answer.verdict is Verdict.AWAY:
                return self.pause
            broken += answer.verdict is Verdict.BROKEN
            if broken >= _MOST_BROKEN:
                break
        return _FIRST_PAUSE_S if broken else None

    def persist(self, *, first: Sequence[str] = (), until: float, stop: threading.Event) -> None:
        """Flush again and again, with growing pauses, until nothing is left, the time is over or told to stop.

        It does not wait for a moment that lies behind ``until``.
        """
        pause = _FIRST_PAUSE_S
        while not stop.is_set():
            wait = self.flush(first=first, until=until, stop=stop)
            if wait is None:
                return
            wait = max(wait, pause)
            if time.monotonic() + wait >= until:
                return
            stop.wait(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _in_order(self, first: Sequence[str]) -> list[str]:
        waiting = self._spool.waiting() if self._spool else []
        own = [name for name in waiting if id_of(name) in first]
        return [*own, *(name for name in waiting if name not in own)]

    def _send_waiting(self, spool: Spool, name: str, unwelcome: set[str], *, within: float) -> Answer | None:
        """One try with one file; ``unwelcome`` are services that Medic has just turned away, and grows."""
        assert self._address is not None
        with spool.claim(name) as spooled:
            if spooled is None or spooled.url not in {None, self._address.url}:
                return None
            heartbeat = spooled.heartbeat
            if heartbeat.service in unwelcome:
                return None
            answer = self._try(heartbeat, within)
            if answer.verdict is Verdict.STORED:
                spool.remove(name)
            elif answer.verdict is Verdict.REFUSED:
                self._reject(heartbeat, answer)
            else:
                self._explain(heartbeat, answer)
                if answer.verdict in {Verdict.FORBIDDEN, Verdict.BROKEN}:
                    unwelcome.add(heartbeat.service)  # it may be about this one alone: the others go on
            return answer

    def _try(self, heartbeat: Heartbeat, within: float) -> Answer:
        assert self._address is not None
        answer = post(self._address, heartbeat.body(sent_at=clock()), within=within)
        if answer.verdict is Verdict.AWAY:
            pause = answer.retry_after if answer.retry_after is not None else _FIRST_PAUSE_S
            self._not_before = time.monotonic() + pause
        else:
            self._not_before = 0.0
        if answer.verdict is Verdict.STORED:
            self._tell(Notice.BACK, f"Medic at {self._address.url} takes signals again.")
        return answer

    def _reject(self, heartbeat: Heartbeat, answer: Answer) -> None:
        url = self._address.url if self._address else None
        where = ""
        if self._spool is not None:
            with suppress(OSError):  # then it stays where it is, or is told of here alone
                self._spool.reject(heartbeat, url, status=answer.status, answer=answer.text)
                where = f" It is kept in {self._spool.rejected}."
        self._tell(
            Notice.REJECTED,
            f"Medic refused a signal of {heartbeat.service} ({answer.status}): {answer.text}{where}",
        )

    def _explain(self, heartbeat: Heartbeat, answer: Answer) -> None:
        assert self._address is not None
        url = self._address.url
        if answer.verdict in {Verdict.BAD_KEY, Verdict.FORBIDDEN}:
            self._tell(
                Notice.NOT_ALLOWED,
                f"{url} does not allow this key to send signals of {heartbeat.service} ({answer.status}): "
                f"{answer.text} They wait until it does.",
            )
            return
        since = self._spool.waiting_since() if self._spool else None
        is_long = since is not None and clock() - since > _LONG_AWAY
        self._tell(
            Notice.LONG_AWAY if is_long else Notice.AWAY,
            f"Medic at {url} {answer.text}; signals are sent later.",
        )

    def _trim(self) -> None:
        if self._spool is None:
            return
        dropped = self._spool.trim(clock())
        if dropped:
            self._tell(
                Notice.DROPPED,
                f"{dropped} old signals in {self._spool.folder} were never sent, and are dropped.",
            )
