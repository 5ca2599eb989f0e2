"""``email``: plain text through a mail server.

The server is a user's address, so the safe client's rules decide whether it may be reached: resolved once, judged,
connected to what was judged.  Where those rules open the public internet, the ports of mail are open to it too.

The ``Message-ID`` is the same over all attempts, and all messages about one alert refer to one thread.
"""

from __future__ import annotations

import contextlib
import logging
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import IO, Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from medic.egress import allow_list
from medic.egress.allowlist import PUBLIC_PORTS, AllowList
from medic.egress.connection import Exchange
from medic.egress.failures import failures
from medic.egress.lookup import system_resolver
from medic.egress.tls import tls_context
from medic.egress.urls import parse_host
from medic.egress.watchdog import Watchdog
from medic.errors import EgressFailed, EgressRefused, Invalid
from medic.notifications import Notification
from medic.settings import Settings
from medic.targets.base import Envelope, Permanent, TargetView, Temporary
from medic.targets.form import Form, read

_log = logging.getLogger("medic.egress")

MAIL_PORTS: Final = frozenset({25, 465, 587, 2525})
_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
Address = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*$", max_length=254),
]
"""An address without a name beside it, in ASCII (RFC 5321)."""

_LONGEST_REPLY = 65_536
_BAD_ADDRESS = re.compile(rb"5\.1\.\d{1,3}\b")  # RFC 3463: it is the address that is wrong


class Config(Form):
    to: Annotated[list[Address], Field(min_length=1, max_length=50)]
    sender: Annotated[Address, Field(alias="from")]
    host: Annotated[str, StringConstraints(min_length=1, max_length=254)]
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"


class Secrets(Form):
    username: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[ -~]+$")] | None = (
        None
    )
    password: (
        Annotated[str, StringConstraints(min_length=1, max_length=1_024, pattern=r"^[ -~]+$")] | None
    ) = None


@dataclass(frozen=True)
class Email:
    kind: ClassVar[str] = "email"
    groups: ClassVar[bool] = True

    timeout: float = 30.0
    """Of the whole delivery."""

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        form, kept, sealed = read(Config, config, Secrets, secrets)
        try:
            parse_host(form.host)
        except EgressRefused:
            raise Invalid.at(
                "config.host", "is no host name or address; write an IPv6 address in brackets"
            ) from None
        if ("username" in sealed) != ("password" in sealed):
            raise Invalid.at("secrets", "needs username and password, or neither")
        if sealed and form.tls == "none":
            raise Invalid.at("config.tls", "must be starttls or tls where a password is sent")
        return kept, sealed

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        mail = compose(notification, envelope, sender=target.config["from"], to=target.config["to"])
        with Watchdog(self.timeout) as watchdog:
            exchange = Exchange(_open_to_mail(allow_list(settings)), system_resolver, watchdog)
            try:
                with failures(exchange, connecting=True):
                    refused = _deliver(mail, target, exchange)
            except EgressRefused as refusal:
                _log.warning("mail server refused: %s", refusal.reason)
                raise Permanent("Invalid mail server", disables=True) from None
            except EgressFailed as failure:
                raise Temporary(f"{failure.message}.") from None
        receipt: dict[str, Any] = {"message_id": mail["Message-ID"]}
        if refused:
            _log.warning("mail server refused %d of %d recipients", len(refused), len(target.config["to"]))
            receipt["refused"] = {address: _said(*reply) for address, reply in refused.items()}
        return receipt


def compose(notification: Notification, envelope: Envelope, *, sender: str, to: list[str]) -> EmailMessage:
    """The message.  Nothing of an alert is in a header but the subject, which holds no line break."""
    domain = sender.rpartition("@")[2][-24:].lstrip(".-")  # a longer id would be folded, which breaks it
    mail = EmailMessage(policy=SMTP)
    mail["From"] = f"Medic <{sender}>"
    mail["To"] = ", ".join(to)
    mail["Subject"] = notification.title()
    mail["Date"] = format_datetime(notification.at)
    mail["Message-ID"] = f"<{envelope.key}@{domain}>"
    if notification.alert is not None:
        # The thread has a root that is never sent, so that it holds whichever message arrives first.
        root = f"<{re.sub(r'[^A-Za-z0-9.-]', '-', envelope.dedup)}@{domain}>"
        earlier = (envelope.earlier or {}).get("message_id")
        known = isinstance(earlier, str) and _MESSAGE_ID.fullmatch(earlier) is not None
        mail["In-Reply-To"] = earlier if known else root
        mail["References"] = f"{root} {earlier}" if known else root
    mail["Auto-Submitted"] = "auto-generated"
    if notification.severity == "critical" and not notification.is_over:
        mail["Importance"] = "high"
    text = "\n".join([notification.title(), "", *notification.text_lines(), ""])
    mail.set_content(text, charset="utf-8", cte="quoted-printable")
    return mail


_MESSAGE_ID = re.compile(r"<[A-Za-z0-9.-]{1,200}@[A-Za-z0-9.-]{1,254}>", re.ASCII)


class _Smtp(smtplib.SMTP):
    """smtplib over a socket of the exchange: judged, and shut down at the deadline."""

    file: _Replies | None

    def __init__(self, host: str, port: int, exchange: Exchange, tls: ssl.SSLContext | None) -> None:
        self._exchange, self._tls = exchange, tls
        # Without a name of its own smtplib would ask the resolver for one, and wait as long as that takes.
        name = socket.gethostname()
        own = name if "." in name and name.isascii() else "[127.0.0.1]"
        super().__init__(host, port, local_hostname=own, timeout=exchange.watchdog.remaining)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:
        sock = self._exchange.open(host, port)
        return sock if self._tls is None else self._tls.wrap_socket(sock, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock.makefile("rb"))
        if self.file is not None:
            self.file.left = _LONGEST_REPLY
        return super().getreply()


class _Replies:
    """The reader of replies: each has as many lines as it likes, so their sum is bounded."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.left = 0

    def readline(self, limit: int) -> bytes:
        line = self._inner.readline(limit)
        self.left -= len(line)
        return line if self.left > 0 else b""  # as if the server had hung up

    def close(self) -> None:
        self._inner.close()


def _deliver(mail: EmailMessage, target: TargetView, exchange: Exchange) -> dict[str, tuple[int, bytes]]:
    """Hand the message over; the recipients that the server refused, when it took others."""
    config, secrets = target.config, target.secrets
    tls, host = config["tls"], parse_host(config["host"])
    context = None if tls == "none" else tls_context(None)
    server: _Smtp | None = None
    try:
        server = _Smtp(host, config.get("port") or _PORTS[tls], exchange, context if tls == "tls" else None)
        if tls == "starttls":
            server.starttls(context=context)
        if "password" in secrets:
            server.login(secrets["username"].get_secret_value(), secrets["password"].get_secret_value())
        refused = server.sendmail(config["from"], config["to"], mail.as_bytes())
        with contextlib.suppress(smtplib.SMTPException):
            server.putcmd("quit")  # the message is the server's now, whatever it answers
    except smtplib.SMTPException as error:
        exchange.watchdog.check()
        raise _failure(error) from None
    else:
        return refused
    finally:
        if server is not None:
            server.close()


def _failure(error: smtplib.SMTPException) -> Temporary | Permanent:
    """What a refusal means: a reply of 4xx passes, one of 5xx stays (RFC 5321 §4.2.1)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        replies: list[tuple[int, bytes]] = list(error.recipients.values())
        text = f"The mail server refused every recipient: {_said(*replies[0])}"
        if any(code < 500 for code, _ in replies):
            return Temporary(text)
        return Permanent(text, disables=all(_BAD_ADDRESS.search(said) for _, said in replies))
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Permanent(f"The mail server cannot do what is asked: {error}", disables=True)
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return Temporary("The mail server hung up.")
    if not isinstance(error, smtplib.SMTPResponseException) or not isinstance(error.smtp_error, bytes):
        return Temporary("The mail server gave an answer that is none.")
    said = _said(error.smtp_code, error.smtp_error)
    if not 500 <= error.smtp_code <= 599:
        return Temporary(f"The mail server could not take it: {said}")
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Permanent(f"The mail server refused the login: {error.smtp_code}", disables=True)
    return Permanent(f"The mail server refused it: {said}", disables=False)


def _said(code: int, text: bytes) -> str:
    """A reply on one line."""
    line = " ".join(text.decode("utf-8", "replace").split())
    return f"{code} {''.join(char for char in line if char.isprintable())}"[:200]


def _open_to_mail(allow: AllowList) -> AllowList:
    if allow.public_ports >= PUBLIC_PORTS:
        return replace(allow, public_ports=allow.public_ports | MAIL_PORTS)
    return allow
