"""Between Medic and its broker: passes every command on, but loses or doubles messages, or falls silent.

A lost message is an ``LPUSH`` that becomes an ``LLEN``, a doubled one pushes its value twice; both answer with a
number as the original does, so nobody in front of the relay can tell.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

Fate = Callable[[str, str], int]
"""How often a message arrives, by its queue and its task's id."""

QUEUES = "medic."


def once(_queue: str, _task_id: str) -> int:
    """Every message arrives as it was sent."""
    return 1


class Wire:
    """Connections to ``url`` reach the broker behind the socket at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.fate: Fate = once
        self.lost = 0
        self.doubled = 0
        self._swallow = b""
        self._swallows = 0
        self._silent: set[socket.socket] = set()
        self._was_silenced = threading.Event()
        threading.Thread(target=self._listen, name="wire", daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for client in self._open:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def silence(self, words: bytes) -> threading.Event:
        """From the next two commands with these words on, their connections are half open: taken, never answered.

        What comes back is set as soon as the second one was swallowed.
        """
        self._swallow = words
        self._swallows = 2
        return self._was_silenced

    def _is_silent(self, client: socket.socket, data: bytes) -> bool:
        with self._lock:
            if client not in self._silent and self._swallows and self._swallow in data:
                self._swallows -= 1
                self._silent.add(client)
                if not self._swallows:
                    self._was_silenced.set()
            return client in self._silent

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            with self._lock:
                self._open.add(client)
            with contextlib.suppress(OSError):
                server.connect(self._path)
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()
                self._ask(client, server)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(client)
                self._silent.discard(client)

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        heard = b""
        while data := client.recv(262_144):
            if self._is_silent(client, data):
                continue
            heard += data
            sent = bytearray()
            while (read := _command(heard)) is not None:
                words, length = read
                sent += self._changed(words) or heard[:length]
                heard = heard[length:]
            server.sendall(sent)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(262_144):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _changed(self, words: list[bytes]) -> bytes | None:
        """The command in the place of this one; nothing when it goes as it is."""
        if len(words) != 3 or words[0].upper() != b"LPUSH" or not words[1].startswith(QUEUES.encode()):
            return None
        times = self.fate(words[1].decode(), str(json.loads(words[2])["headers"]["id"]))
        with self._lock:
            self.lost += times == 0
            self.doubled += times > 1
        if times == 0:
            return _written([b"LLEN", words[1]])
        return _written([b"LPUSH", words[1], *[words[2]] * times]) if times > 1 else None


def _command(heard: bytes) -> tuple[list[bytes], int] | None:
    """The first command, an array of strings, and its length; nothing when it is not whole yet."""
    end = heard.find(b"\r\n")
    if end < 0:
        return None
    if heard[:1] != b"*":
        return [], end + 2
    words = []
    at = end + 2
    for _ in range(int(heard[1:end])):
        end = heard.find(b"\r\n", at)
        if end < 0:
            return None
        length = int(heard[at + 1 : end])
        at = end + 2 + length + 2
        if at > len(heard):
            return None
        words.append(heard[end + 2 : at - 2])
    return words, at


def _written(words: list[bytes]) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


@contextlib.contextmanager
def wired(path: str) -> Iterator[Wire]:
    wire = Wire(path)
    try:
        yield wire
    finally:
        wire.close()
