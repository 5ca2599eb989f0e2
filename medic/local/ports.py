"""Ports of the stack: whether one is free, and one that is."""

from __future__ import annotations

import errno
import socket

from medic.errors import Conflict, Misconfigured


def choose_port(host: str, port: int, *, what: str, way_on: str) -> int:
    """Check that the port is free; for port 0, pick one that is.

    :param what: who wants it, as "the API".
    :param way_on: how to move it, as "set PORT".
    :raises Conflict: when somebody listens on it.
    :raises Misconfigured: when the address is none of this machine's, or the port needs root.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a connection that lingers from the run before is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            raise Misconfigured(f"Port {port} for {what} needs more rights than we have: {way_on}.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"Port {port} on {host} is taken, {what} cannot listen there: "
                    f"stop who holds it, or {way_on}."
                ) from None
            raise Misconfigured(
                f"{what} cannot listen on {host}:{port} ({error.strerror}): {way_on}."
            ) from None
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """The address under which this machine itself reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - no bind


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection((reachable(host), port), timeout=1.0):
            return True
    except OSError:
        return False
