"""One configuration of logging for API, workers, beat, Flower and the command line.

structlog stands over the standard library: ``structlog.get_logger("medic.x").info("alert.opened", alert=3)``,
``logging.getLogger("medic.x")`` and the records of Celery, granian, Flower and Alembic all leave through one
handler to stdout, in one format, redacted, with the ids that the edge has bound.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

import structlog

from medic.settings import Settings, current
from medic.telemetry.log_format import JsonLine, TextLine

# What these say at INFO happens every second or at each request, and says nothing of Medic's own.
CHATTY = ("alembic", "celery.app.trace", "celery.beat", "celery.worker.strategy", "kombu", "tornado.access")


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to the stdout of the moment, and never prints a record that it could not render."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say where the line came from; the standard answer would print its arguments, unredacted."""
        if (
            isinstance(sys.exc_info()[1], OSError)
            or getattr(self.stream, "closed", True)
            or hasattr(record, "unprintable")
        ):
            return  # there is nowhere left to say so
        substitute = logging.LogRecord(
            record.name,
            logging.ERROR,
            record.pathname,
            record.lineno,
            "log.unprintable",
            (),
            None,
            record.funcName,
        )
        substitute.unprintable = True
        self.emit(substitute)


def configure_logging(settings: Settings, component: str) -> None:
    """Send every log record of this process to stdout.  May be called again; the last call holds.

    :param component: ``api``, ``worker``, ``beat``, ``flower`` or ``cli``; it stands in each line's resource.
    """
    handler = _handler(settings, component)
    root = logging.getLogger()
    for old in root.handlers[:]:
        # Ours of an earlier call, and what `logging.basicConfig` made; a test's capture handler stays.
        if type(old) in {StdoutHandler, logging.StreamHandler}:
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in CHATTY:
        quiet = logging.WARNING if settings.log_level == "INFO" else logging.NOTSET
        logging.getLogger(name).setLevel(quiet)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # Somebody else's hook (a debugger's, a test runner's) is left in place.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_thread


def granian_handler() -> logging.Handler:
    """What granian_logs.json names for granian's records: the server writes some before it loads our application."""
    return _handler(current(), "api")


def bind_context(**ids: str | int | None) -> None:
    """Put ids into each following log line of this request or task: ``request_id``, ``execution_id``, ``task_id``."""
    structlog.contextvars.bind_contextvars(
        **{name: value for name, value in ids.items() if value is not None}
    )


def clear_context() -> None:
    """Forget what was bound; call it when a request or task begins and when it has ended."""
    structlog.contextvars.clear_contextvars()


@contextmanager
def bound_context(**ids: str | int | None) -> Iterator[None]:
    """`bind_context` for the length of a block; what was bound before comes back."""
    with structlog.contextvars.bound_contextvars(
        **{name: value for name, value in ids.items() if value is not None}
    ):
        yield


def _handler(settings: Settings, component: str) -> StdoutHandler:
    line: JsonLine | TextLine
    if settings.log_format == "json":
        line = JsonLine(
            {
                "service.name": settings.otel_service_name,
                "service.version": settings.version,
                "deployment.environment": settings.environment,
                "medic.component": component,
            }
        )
    else:
        line = TextLine()
    handler = StdoutHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder()],
            processors=[line],
        )
    )
    return handler


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("medic").critical("process.crashed", exc_info=(kind, error, trace))


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    logging.getLogger("medic").error(
        "thread.crashed",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        extra={"thread_name": args.thread.name if args.thread else None},
    )
