"""Between Medic and PostgreSQL: passes everything on, and can lose one answer as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from sqlalchemy.engine import URL, make_url


class Relay:
    """Connections to ``url`` reach the database at ``behind``."""

    def __init__(self, behind: str) -> None:
        self._behind = make_url(behind)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._told: bytes | None = None
        self.lost = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        url = URL.create(
            "postgresql+psycopg2", self._behind.username, self._behind.password, "127.0.0.1", port,
            self._behind.database, {"sslmode": "disable", "gssencmode": "disable"},
        )  # fmt: skip
        return url.render_as_string(hide_password=False)

    def lose_the_answer_to(self, words: bytes) -> None:
        """The next message with these words is heard and obeyed; then the connection is gone."""
        self.lost.clear()
        self._told = words

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            deaf = threading.Event()
            answers = threading.Thread(target=self._answer, args=(client, server, deaf), daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65_536):
                    if self._told is not None and self._told in data:
                        self._told = None
                        deaf.set()
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)
            answers.join()

    def _answer(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if deaf.is_set():
                    self.lost.set()
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    def _connect(self) -> socket.socket:
        folder, port = self._behind.query.get("host"), self._behind.query.get("port", "5432")
        if isinstance(folder, str) and folder.startswith("/"):
            made = socket.socket(socket.AF_UNIX)
            made.connect(f"{folder}/.s.PGSQL.{port}")
            return made
        return socket.create_connection((self._behind.host or "127.0.0.1", self._behind.port or 5432))


@contextlib.contextmanager
def relaying(behind: str) -> Iterator[Relay]:
    relay = Relay(behind)
    try:
        yield relay
    finally:
        relay.close()
