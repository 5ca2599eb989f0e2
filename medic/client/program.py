"""What a program uses: a client, and the runs of its jobs."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from medic.client import exchange
from medic.client.address import find_address
from medic.client.courier import TRY_S, Courier, Fate
from medic.client.heartbeat import MAX_METRICS, Heartbeat, clock, new_id, usable_metric
from medic.client.notices import LogNotices, Notice
from medic.client.report import RunReport
from medic.client.spool import Spool, default_folder
from medic.errors import MedicError

P = ParamSpec("P")
R = TypeVar("R")

_CO_COROUTINE = 0x80
"""``inspect.CO_COROUTINE``, without the import of inspect."""


class Medic:
    """A client of one Medic.  No method raises because of Medic, its address, its key or the network.

    What goes wrong is a WARNING of the logger ``medic.client``, once in each outage.

    :param url: the server; else MEDIC_BASE_URL, else that of ``./.medic``.
    :param key: the API key, or ``@FILE``; else MEDIC_API_KEY or MEDIC_API_KEY_FILE, else that of ``./.medic``.
    :param spool: the folder in which signals wait while Medic is away; True: MEDIC_SPOOL_DIR, else the user's
        state folder, which `medic run` shares; False: none, and they are lost.
    :param patience: seconds that the end of a run may take at most.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        spool: str | Path | bool = True,
        patience: float = TRY_S,
    ) -> None:
        self._url = url
        self._key = key
        self._spool = spool
        self._patience = patience
        self.tell = LogNotices()
        self._made: Courier | None = None

    def heartbeat(
        self, service: str, status: str = "ok", *, message: str | None = None, exit_code: int | None = None,
        duration_ms: int | None = None, run_id: str | None = None,
        metrics: Mapping[str, float] | None = None, occurred_at: datetime | None = None,
    ) -> bool:  # fmt: skip
        """Send one signal; takes 3 s at most.

        :param status: ``ok``, ``start``, ``complete``, ``fail`` or ``log``.
        :param occurred_at: when it happened, with a zone; now, if not given.
        :returns: whether Medic has stored it; if not, it waits in the spool.
        """
        try:
            exchange.load()
            signal = Heartbeat(
                service=service, status=status, occurred_at=occurred_at or clock(), run_id=run_id,
                duration_ms=duration_ms, exit_code=exit_code, message=message,
                metrics=self._usable(metrics or {}),
            )  # fmt: skip
            return self.courier().deliver(signal) is Fate.SENT
        except Exception as error:  # noqa: BLE001 - a wrong argument is no reason to stop the program either
            self.tell(
                Notice.REJECTED, f"A signal of {service} cannot be sent: {type(error).__name__}: {error}"
            )
            return False

    def run(self, service: str, *, run_id: str | None = None, report_error: bool = True) -> Run:
        """A run of a job, as a context manager.

        :param report_error: send the traceback of an exception; False keeps it home.
        """
        return Run(self, service, run_id=run_id or new_id(), report_error=report_error)

    def job(self, service: str, *, report_error: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function, or a coroutine function: each call is a run."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
            if flags & _CO_COROUTINE:
                return cast("Callable[P, R]", self._awaited(service, cast("Any", function), report_error))

            @functools.wraps(function)
            def reported(*args: P.args, **kwargs: P.kwargs) -> R:
                with self.run(service, report_error=report_error):
                    return function(*args, **kwargs)

            return reported

        return decorate

    def courier(self) -> Courier:
        """The courier of this client, made at the first need."""
        if self._made is None:
            try:
                address = find_address(os.environ, url=self._url, key=self._key)
            except MedicError as error:
                address = None
                self.tell(Notice.NO_SERVER, f"Signals of this program are not sent: {error}")
            folder = default_folder(os.environ) if self._spool is True else self._spool
            spool = Spool(Path(folder)) if folder else None
            self._made = Courier(address, spool, self.tell, wants_spool=self._spool is not False)
        return self._made

    def _awaited(
        self, service: str, function: Callable[..., Awaitable[Any]], report_error: bool
    ) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def reported(*args: Any, **kwargs: Any) -> Any:
            import asyncio  # noqa: PLC0415 - a program with coroutines has it

            run = self.run(service, report_error=report_error)
            run.__enter__()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                await asyncio.shield(asyncio.to_thread(run.__exit__, type(error), error, None))
                raise
            await asyncio.to_thread(run.__exit__, None, None, None)
            return result

        return reported

    def _usable(self, metrics: Mapping[str, object]) -> dict[str, float]:
        usable: dict[str, float] = {}
        for name, value in metrics.items():
            number = usable_metric(value)
            if number is None or len(usable) >= MAX_METRICS:
                why = "is no finite number" if number is None else f"is one of more than {MAX_METRICS}"
                self.tell(Notice.REJECTED, f"The metric {name} {why}; it is left out.")
            else:
                usable[str(name)] = number
        return usable


class Run:
    """One run of a job, between ``with`` and its end.

    A start is sent beside the program.  The end is ``complete``, or ``fail`` after an exception, a
    ``sys.exit`` with a code other than 0, or `fail`.  ``run.message`` is sent with it.

    A process forked off inside the block reports nothing: the run is that of the process that began it.
    """

    def __init__(self, client: Medic, service: str, *, run_id: str, report_error: bool) -> None:
        self.id = run_id
        self.service = service
        self.message: str | None = None
        self._client = client
        self._report_error = report_error
        self._report = RunReport(client.courier)
        self._metrics: dict[str, object] = {}
        self._failed = False
        self._began = 0.0
        self._pid = 0

    def metric(self, name: str, value: float) -> None:
        """A number that is sent with the run's end; the last value of a name counts."""
        self._metrics[name] = value

    def fail(self, message: str | None = None) -> None:
        """Let the run end as failed, without an exception."""
        self._failed = True
        self.message = message if message is not None else self.message

    def __enter__(self) -> Self:
        exchange.load()  # here, as the block may fork
        self._pid = os.getpid()
        self._began = time.monotonic()
        self._report.start(Heartbeat(self.service, "start", clock(), run_id=self.id))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            return
        exit_code: int | None = None
        failed = self._failed or error is not None
        if isinstance(error, SystemExit):
            code = error.code
            exit_code = code if isinstance(code, int) else int(code is not None)
            failed = self._failed or exit_code != 0
        message = self.message
        if failed and message is None and error is not None and self._report_error:
            message = _told(error)
        self._report.finish(
            Heartbeat(
                self.service, "fail" if failed else "complete", clock(), run_id=self.id,
                duration_ms=int((time.monotonic() - self._began) * 1000), exit_code=exit_code,
                message=message, metrics=self._client._usable(self._metrics),  # noqa: SLF001 - its own run
            ),
            patience=self._client._patience,  # noqa: SLF001
        )  # fmt: skip


def _told(error: BaseException) -> str:
    import traceback  # noqa: PLC0415 - only a failure pays for it

    return "".join(traceback.format_exception(error))
