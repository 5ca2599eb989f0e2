"""Whom TLS trusts: the system's authorities, or certifi's where the system has none."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
from urllib3.util.ssl_ import create_urllib3_context

from medic.errors import Misconfigured


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context of TLS 1.2 or later that verifies chain and name.

    :param ca_file: certificates in PEM that are trusted besides.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    context.load_default_certs()
    if not context.cert_store_stats()["x509_ca"] and not _has_directory():
        context.load_verify_locations(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def check_ca_file(ca_file: str | Path | None) -> Path | None:
    """Make sure that the file can be used, so that a wrong one stops the start.

    :raises Misconfigured: when it cannot be read, or holds no certificate.
    """
    if ca_file is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca_file)
    except OSError:  # ssl.SSLError is one
        raise Misconfigured("The CA file cannot be read, or holds no certificate in PEM") from None
    return Path(ca_file)


def _has_directory() -> bool:
    """Whether the system keeps authorities in a directory, which OpenSSL reads only when it needs one."""
    directory: str | None = ssl.get_default_verify_paths().capath
    return bool(directory) and any(Path(directory or "").iterdir())
