from __future__ import annotations

import contextlib
import email
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from medic.errors import Invalid
from medic.settings import Settings
from medic.targets.base import Permanent, Temporary
from medic.targets.email import Email

KIND = Email(timeout=10)
TO = ["ops@example.org", "boss@example.org"]


class Office:
    """A mail server's decisions: ``says`` maps a command, or a recipient, to what it answers instead of yes."""

    def __init__(self) -> None:
        self.says: dict[str, str] = {}
        self.mails: list[Any] = []
        self.tls: list[bool] = []
        self.logged_in: list[bool] = []
        self.recipients: list[list[str]] = []

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return self.says.get("MAIL", "250 OK")

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        said = self.says.get(address, "250 OK")
        if said.startswith("2"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if "DATA" in self.says:
            return self.says["DATA"]
        self.mails.append(email.message_from_bytes(envelope.content, policy=default))
        self.tls.append(server.transport.get_extra_info("cipher") is not None)
        self.logged_in.append(bool(session.authenticated))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 taken"


class OnAnyPort(Controller):  # type: ignore[misc]
    port: int

    def _trigger_server(self) -> None:
        # It calls itself to see that it answers, at the port that it was given: 0.
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system trusts the authority of this test."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.fixture
def serve(office: Office, authority: trustme.CA) -> Iterator[Callable[..., int]]:
    """Start a mail server; returns its port."""
    controllers: list[OnAnyPort] = []

    def start(*, tls: str = "none", name: str = "127.0.0.1", login: tuple[str, str] | None = None) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)

        def authenticate(
            server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword
        ) -> AuthResult:
            good = login is not None and (data.login.decode(), data.password.decode()) == login
            return AuthResult(success=good, handled=good)

        options: dict[str, Any] = {"authenticator": authenticate} if login else {}
        if tls == "starttls":
            options |= {"tls_context": context, "require_starttls": True}
        else:
            options |= {"auth_require_tls": False}  # it takes only STARTTLS for TLS
        controller = OnAnyPort(
            office, hostname="127.0.0.1", port=0, ssl_context=context if tls == "tls" else None, **options
        )
        controller.start()
        controllers.append(controller)
        return controller.port

    yield start
    for controller in controllers:
        controller.stop()


@pytest.fixture
def target(view: Any) -> Callable[..., Any]:
    def made(port: int, *, tls: str = "none", **secrets: str) -> Any:
        config = {"to": TO, "from": "medic@example.org", "host": "127.0.0.1", "port": port, "tls": tls}
        return view(KIND, config, **secrets)

    return made


def test_a_mail_says_what_happened(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    receipt = KIND.send(target(serve()), tell(), envelope(), settings=settings)
    (mail,) = office.mails
    assert (office.recipients, office.tls) == ([TO], [False])
    assert (mail["From"], mail["To"]) == ("Medic <medic@example.org>", "ops@example.org, boss@example.org")
    assert mail["Subject"] == "web-7 is down: missed (p2)"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert receipt == {"message_id": mail["Message-ID"]}
    assert mail["Message-ID"] == f"<{envelope().key}@example.org>"
    assert mail.get_content_type() == "text/plain"
    text = mail.get_content()
    assert "Runbook: https://wiki.example.org/web?a=1&b=2" in text
    assert "Medic: https://medic.example.org/" in text


def test_a_mail_sent_again_has_the_same_id_and_all_of_one_alert_are_one_thread(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    where = target(serve())
    receipt = KIND.send(where, tell(), envelope(), settings=settings)
    KIND.send(where, tell(), envelope(), settings=settings)
    KIND.send(where, tell("resolved"), envelope(receipt), settings=settings)
    first, again, over = office.mails
    assert first["Message-ID"] == again["Message-ID"]
    assert over["In-Reply-To"] == first["Message-ID"]
    assert over["References"].split() == [first["References"], first["Message-ID"]]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_it_logs_in_over_tls(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any, tls: str
) -> None:
    where = target(serve(tls=tls, login=("medic", "hunter2")), tls=tls, username="medic", password="hunter2")
    KIND.send(where, tell(), envelope(), settings=settings)
    assert (office.tls, office.logged_in) == ([True], [True])


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_disables(serve: Any, settings: Any, tell: Any, envelope: Any, target: Any) -> None:
    where = target(
        serve(tls="starttls", login=("medic", "right")), tls="starttls", username="medic", password="hunter2"
    )
    with pytest.raises(Permanent, match="login: 535") as failed:
        KIND.send(where, tell(), envelope(), settings=settings)
    assert failed.value.disables


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_certificate_of_an_unknown_authority_is_refused(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any, tls: str
) -> None:
    with pytest.raises(Temporary, match="certificate is not valid"):
        KIND.send(target(serve(tls=tls), tls=tls), tell(), envelope(), settings=settings)
    assert office.mails == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_certificate_of_another_name_is_refused(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any, tls: str
) -> None:
    with pytest.raises(Temporary, match="certificate is not valid"):
        KIND.send(
            target(serve(tls=tls, name="mail.example.org"), tls=tls), tell(), envelope(), settings=settings
        )
    assert office.mails == []


def test_nothing_is_sent_in_the_open_where_tls_is_asked_for(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    with pytest.raises(Permanent, match="STARTTLS") as failed:
        KIND.send(target(serve(), tls="starttls"), tell(), envelope(), settings=settings)
    assert failed.value.disables
    assert office.mails == []


@pytest.mark.parametrize(
    ("says", "kind", "disables"),
    [
        ({"MAIL": "451 4.3.0 later"}, Temporary, None),
        ({"MAIL": "550 5.7.1 not you"}, Permanent, False),
        ({"DATA": "452 4.3.1 full"}, Temporary, None),
        ({"DATA": "554 5.6.0 spam"}, Permanent, False),
        (dict.fromkeys(TO, "450 4.2.0 greylisted"), Temporary, None),
        (dict.fromkeys(TO, "550 5.1.1 no such user"), Permanent, True),
        (dict.fromkeys(TO, "550 5.7.1 policy"), Permanent, False),
        ({TO[0]: "550 5.1.1 no such user", TO[1]: "450 4.2.0 greylisted"}, Temporary, None),
    ],
)
def test_a_reply_of_4xx_is_temporary_and_one_of_5xx_is_permanent(
    office: Office, serve: Any, settings: Any, tell: Any, envelope: Any, target: Any, says: Any, kind: Any, disables: Any
) -> None:  # fmt: skip
    office.says = says
    with pytest.raises(kind, match=next(iter(says.values()))) as failed:
        KIND.send(target(serve()), tell(), envelope(), settings=settings)
    assert getattr(failed.value, "disables", None) is disables
    assert office.mails == []


def test_recipients_that_are_refused_beside_others_are_reported(
    office: Office,
    serve: Any,
    settings: Any,
    tell: Any,
    envelope: Any,
    target: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    office.says = {"boss@example.org": "550 5.1.1 no such user"}
    receipt = KIND.send(target(serve()), tell(), envelope(), settings=settings)
    assert receipt["refused"] == {"boss@example.org": "550 5.1.1 no such user"}
    assert office.recipients == [["ops@example.org"]]
    assert "refused 1 of 2 recipients" in caplog.text


@contextlib.contextmanager
def rude(talk: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that does to each connection what a test says, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                with peer:
                    talk(peer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(20)


def _drip(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(b"220-still thinking\r\n")
            time.sleep(0.02)


def _flood(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(b"220-more\r\n" * 10_000)


@pytest.mark.parametrize(
    "talk",
    [
        lambda peer: peer.recv(1),  # says nothing until we hang up
        _drip,
        _flood,
        lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda peer: peer.sendall(b"\x16\x03\x01\xff"),
        lambda peer: peer.sendall(b"220 " + b"x" * 20_000 + b"\r\n"),
        lambda peer: peer.sendall(b"220 hello\r\n"),
        lambda peer: peer.sendall(b"421 too busy\r\n"),
        lambda _: None,
    ],
    ids=["hang", "drip", "flood", "http", "garbage", "long line", "hangs up", "busy", "closes"],
)
def test_a_server_that_misbehaves_is_temporary_and_ends_in_time(
    settings: Any, tell: Any, envelope: Any, target: Any, talk: Any
) -> None:
    with rude(talk) as port:
        started = time.monotonic()
        with pytest.raises(Temporary):
            Email(timeout=0.5).send(target(port), tell(), envelope(), settings=settings)
        assert time.monotonic() - started < 5


def test_a_mail_server_that_the_rules_close_is_not_connected_to(
    office: Office, serve: Any, closed_settings: Any, tell: Any, envelope: Any, target: Any
) -> None:
    with pytest.raises(Permanent, match="Invalid mail server") as refused:
        KIND.send(target(serve()), tell(), envelope(), settings=closed_settings)
    assert refused.value.disables
    assert office.mails == []


def test_the_ports_of_mail_are_open_where_the_public_internet_is(
    tell: Any, envelope: Any, view: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """On 587 the address is looked at, and found private; on another port nothing is even resolved."""
    for allowed, port, why in (
        ("", 587, "loopback"), ("", 9999, "port is not open"), ("hooks.example.org", 587, "host is not listed"),
        ("*:9999", 587, "port is not open"),
    ):  # fmt: skip
        caplog.clear()
        where = view(KIND, {"to": TO, "from": "medic@example.org", "host": "127.0.0.1", "port": port})
        with pytest.raises(Permanent):
            KIND.send(
                where,
                tell(),
                envelope(),
                settings=Settings.from_env({"MEDIC_ALLOWED_WEBHOOK_HOSTS": allowed}),
            )
        assert why in caplog.text


@pytest.mark.parametrize(("tls", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_follows_from_tls(
    tell: Any, envelope: Any, view: Any, caplog: pytest.LogCaptureFixture, tls: str, port: int
) -> None:
    where = view(KIND, {"to": TO, "from": "m@example.org", "host": "127.0.0.1", "tls": tls})
    nothing_open = Settings.from_env({"MEDIC_ALLOWED_WEBHOOK_HOSTS": "hooks.example.org"})
    with pytest.raises(Permanent):
        KIND.send(where, tell(), envelope(), settings=nothing_open)
    assert f"127.0.0.1 port {port}: host is not listed" in caplog.text


@pytest.mark.parametrize(
    ("change", "secrets", "where"),
    [
        ({"to": []}, {}, "config.to"),
        ({"to": "ops@example.org"}, {}, "config.to"),
        ({"to": ["ops@example.org\r\nBcc: x@example.org"]}, {}, "config.to.0"),
        ({"to": ["Ops <ops@example.org>"]}, {}, "config.to.0"),
        ({"from": "medic"}, {}, "config.from"),
        ({"host": "mail.example.org:25"}, {}, "config.host"),
        ({"host": "::1"}, {}, "config.host"),
        ({"port": 0}, {}, "config.port"),
        ({"port": "25"}, {}, "config.port"),
        ({"tls": "maybe"}, {}, "config.tls"),
        ({"tls": "none"}, {"username": "medic", "password": "hunter2"}, "config.tls"),
        ({}, {"password": "hunter2"}, "secrets"),
        ({}, {"username": "medic", "password": "hunter2\r\n"}, "secrets.password"),
    ],
)
def test_a_mistake_is_told_where_it_is(change: Any, secrets: Any, where: str) -> None:
    good = {"to": TO, "from": "medic@example.org", "host": "mail.example.org"}
    assert KIND.parse(good, {})[0] == {**good, "tls": "starttls"}
    with pytest.raises(Invalid) as wrong:
        KIND.parse(good | change, secrets)
    assert [problem.path for problem in wrong.value.problems] == [where]
    assert "hunter2" not in str(wrong.value)
