"""Takes signals to Medic: at once, or to the spool and from there as soon as it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from enum import Enum

from medic.client.address import Address
from medic.client.exchange import BATCH_ITEMS, Answer, Verdict, post, post_batch
from medic.client.heartbeat import Heartbeat, clock
from medic.client.loads import Waiting, loads
from medic.client.notices import Notice, Tell
from medic.client.spool import Spool, id_of
from medic.times import format_time

TRY_S = 3.0
"""How long one try may take."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_MOST_BROKEN = 5
_PASSES = 3
_STUCK = -1.0
_LONG_AWAY = timedelta(hours=1)
_NAMED = 3


class Fate(Enum):
    """What became of a signal."""

    SENT = "sent"
    KEPT = "kept"
    """In the spool, for later."""
    REJECTED = "rejected"
    LOST = "lost"
    """Neither sent nor kept."""


class Courier:
    """Speaks to one server and empties one spool.  No method raises; threads may share it.

    :param wants_spool: what is lost for want of a spool is worth a word.
    """

    def __init__(
        self, address: Address | None, spool: Spool | None, tell: Tell, *, wants_spool: bool = True
    ) -> None:
        self._wants_spool = wants_spool
        self._address = address
        self._spool = spool
        self._tell = tell
        self._most = BATCH_ITEMS
        self._stumbled: set[str] = set()  # signals at which Medic stumbled: the others first
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
            if self._wants_spool:
                self._tell(
                    Notice.NO_SPOOL, "signals cannot be kept: no folder is known, set MEDIC_SPOOL_DIR."
                )
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
        """Send what waits for this server, oldest first and many in one request.

        :param first: ids of signals that go before all others, since they are fresh.
        :param until: monotonic time at which to leave off.
        :returns: seconds after which to try again; None when nothing is left that could be sent.
        """
        if self._spool is None or self._address is None:
            return None
        with self._spool.sole_sender() as is_sole:
            if is_sole:
                self._trim()
                skipped: set[str] = set()
                for _ in range(_PASSES):
                    again = self._empty(self._spool, first, skipped, until, stop)
                    if again != _STUCK:
                        return again
                return _FIRST_PAUSE_S
        # Somebody else is at it, with a list that may be older than our own signals.
        return _FIRST_PAUSE_S if self._waits(first) else None

    def _empty(
        self, spool: Spool, first: Sequence[str], skipped: set[str], until: float, stop: threading.Event
    ) -> float | None:
        """As `flush`, or `_STUCK` when Medic stumbled too often to go on with this list."""
        assert self._address is not None
        again: float | None = None
        for load in loads(
            spool, self._address.url, first=first, last=self._stumbled, skipped=skipped, most=self._most
        ):
            if stop.is_set() or time.monotonic() >= until:
                return 0.0
            if self.pause:
                return self.pause
            verdicts = self._send(spool, load, first, skipped, until)
            if Verdict.BAD_KEY in verdicts:
                return None
            if verdicts.count(Verdict.BROKEN) >= _MOST_BROKEN:
                return _STUCK
            if Verdict.AWAY in verdicts or Verdict.BROKEN in verdicts:
                again = _FIRST_PAUSE_S
        return max(again, self.pause) if again else None

    def _send(
        self, spool: Spool, load: list[Waiting], first: Sequence[str], skipped: set[str], until: float
    ) -> list[Verdict]:
        """One request, or where Medic refuses it as a whole one for each: none shall answer for another.

        :param skipped: grows by the services whose signals have to wait.
        """
        assert self._address is not None
        if len(load) > 1:
            bodies = [heartbeat.body(sent_at=clock()) for _, heartbeat in load]
            within = min(TRY_S, until - time.monotonic())
            answer = self._heed(post_batch(self._address, bodies, within=within))
            if answer.items:
                for (name, heartbeat), item in zip(load, answer.items, strict=True):
                    self._settle(spool, name, heartbeat, item, skipped)
                return [item.verdict for item in answer.items]
            if answer.verdict in {Verdict.AWAY, Verdict.BAD_KEY}:
                if answer.status is None:
                    self._most = max(1, self._most // 10)  # it may be the size that takes too long
                self._explain(load[0][1], answer)
                return [answer.verdict]
        verdicts: list[Verdict] = []
        for name, heartbeat in load:
            if heartbeat.service in skipped and heartbeat.id not in first:
                continue
            within = min(TRY_S, until - time.monotonic())
            if self.pause or within <= 0 or verdicts.count(Verdict.BROKEN) >= _MOST_BROKEN:
                break
            answer = self._try(heartbeat, within)
            verdicts.append(answer.verdict)
            self._settle(spool, name, heartbeat, answer, skipped)
            if answer.verdict is Verdict.BAD_KEY:
                break
        return verdicts

    def _settle(
        self, spool: Spool, name: str, heartbeat: Heartbeat, answer: Answer, skipped: set[str]
    ) -> None:
        """Do with a file what Medic said about its signal."""
        if answer.verdict is Verdict.STORED:
            spool.remove(name)
        elif answer.verdict is Verdict.REFUSED:
            self._reject(heartbeat, answer)
        else:
            self._explain(heartbeat, answer)
            skipped.add(heartbeat.service)  # it may be about this one alone: the others go on
            if answer.verdict is Verdict.BROKEN:
                self._stumbled.add(heartbeat.id)

    def persist(
        self, *, first: Sequence[str] = (), until: float, stop: threading.Event, for_first: bool = False
    ) -> None:
        """Flush again and again, with growing pauses, until nothing is left, the time is over or told to stop.

        It does not wait for a moment that lies behind ``until``.

        :param for_first: what is not ``first`` is worth a try, but no waiting.
        """
        pause = _FIRST_PAUSE_S
        while not stop.is_set():
            wait = self.flush(first=first, until=until, stop=stop)
            if wait is None or (for_first and not self._waits(first)):
                return
            wait = max(wait, pause)
            if time.monotonic() + wait >= until:
                return
            stop.wait(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _waits(self, ids: Sequence[str]) -> bool:
        return self._spool is not None and any(id_of(name) in ids for name in self._spool.waiting())

    def _try(self, heartbeat: Heartbeat, within: float) -> Answer:
        assert self._address is not None
        return self._heed(post(self._address, heartbeat.body(sent_at=clock()), within=within))

    def _heed(self, answer: Answer) -> Answer:
        """Keep to the patience that Medic asks for, and say when it is back."""
        if answer.verdict is Verdict.AWAY:
            pause = answer.retry_after if answer.retry_after is not None else _FIRST_PAUSE_S
            self._not_before = time.monotonic() + pause
        else:
            self._not_before = 0.0
        if answer.verdict is Verdict.STORED and self._address is not None:
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
            f"Medic at {url} {answer.text}" + ("; signals are sent later." if self._spool else "."),
        )

    def _trim(self) -> None:
        if self._spool is None:
            return
        dropped = self._spool.trim(clock())
        if dropped.count and dropped.first and dropped.last:
            whose = ", ".join(dropped.services[:_NAMED]) or "unknown services"
            more = " and others" if len(dropped.services) > _NAMED else ""
            self._tell(
                Notice.DROPPED,
                f"{dropped.count} signals in {self._spool.folder} were never sent and are dropped, as they are "
                f"too many or too old: of {whose}{more}, from {format_time(dropped.first)} to "
                f"{format_time(dropped.last)}.",
            )
