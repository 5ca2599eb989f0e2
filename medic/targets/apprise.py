"""``apprise``: one URL for each of the hundred services that Medic does not speak itself.

The one exception from the safe client: Apprise opens its own connections, so a target of this kind reaches whatever
the worker reaches, and only the scope ``targets:write`` keeps people from it.  What acts on the worker's own machine,
reads its files, or sends any request to any address is refused: for the last there is the kind ``webhook``.

Apprise says only whether it went through, so every failure is worth another try.  It has no deadline for a whole
message: it runs in a thread that is left behind when the deadline comes first, and the number of such threads is
bounded.  Its URLs are secrets through and through; neither they nor what Apprise logs of them is ever printed.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from pydantic import StringConstraints

from medic.errors import Invalid
from medic.notifications import Notification
from medic.settings import Settings
from medic.targets.base import Envelope, Permanent, TargetView, Temporary
from medic.targets.form import Form, read

# Apprise takes half a second to load, so only a process that has such a target does it.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_REFUSED: Final = frozenset(
    {
        "blink1", "dbus", "deltachat", "glib", "gnome", "macosx", "syslog", "vapid", "windows",
        "apprise_api", "custom_form", "custom_json", "custom_xml",
    }
)  # fmt: skip
"""Modules of Apprise: those that act on this machine or keep files there, and those that are a plain request."""

_REFUSED_OPTIONS: Final = frozenset(
    {"attach", "keyfile", "pem", "pgp", "pgpkey", "pgpprv", "pgppub", "redirect", "subfile", "wkd"}
)
"""Options that read files of this machine, fetch keys from elsewhere, or follow redirects."""

_MENTION = re.compile(r"[@<](?=\S)")
_MAX_THREADS = 8
_slots = threading.BoundedSemaphore(_MAX_THREADS)


class Config(Form):
    pass


class Secrets(Form):
    url: Annotated[str, StringConstraints(min_length=1, max_length=2_048, pattern=r"^[!-~]+$")]


@dataclass(frozen=True)
class Apprise:
    kind: ClassVar[str] = "apprise"
    groups: ClassVar[bool] = True

    timeout: float = 30.0
    """Of the whole delivery."""

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        _, kept, sealed = read(Config, config, Secrets, secrets)
        _service(sealed["url"])
        return kept, sealed

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        del envelope, settings  # Apprise knows neither ids nor an allow list
        try:
            service = _service(target.secrets["url"].get_secret_value())
        except Invalid as error:
            raise Permanent(
                f"Apprise cannot use the URL: {error.problems[0].message}", disables=True
            ) from None
        service.socket_connect_timeout = min(service.socket_connect_timeout, self.timeout / 3)
        service.socket_read_timeout = min(service.socket_read_timeout, self.timeout)
        if not _slots.acquire(timeout=self.timeout):
            raise Temporary("Too many messages through Apprise hang.")
        sending = _Sending(service, notification)
        try:
            threading.Thread(target=sending.run, name="medic-apprise", daemon=True).start()
        except RuntimeError:
            _slots.release()
            raise Temporary("No thread for Apprise.") from None
        if not sending.done.wait(self.timeout):
            raise Temporary("Apprise did not finish in time.")
        if not sending.went_through:
            raise Temporary("Apprise did not deliver it; it does not say why.")
        return {}


class _Sending:
    """One message, in a thread of its own."""

    def __init__(self, service: NotifyBase, notification: Notification) -> None:
        self._service, self._notification = service, notification
        self.done = threading.Event()
        self.went_through = False

    def run(self) -> None:
        from apprise import Apprise as Sender
        from apprise import NotifyFormat
        from opentelemetry.instrumentation.utils import suppress_http_instrumentation

        said = self._notification
        try:
            sender = Sender(asset=self._service.asset)
            sender.add(self._service)
            # Its requests hold tokens in their paths: no span is made of them.
            with suppress_http_instrumentation():
                self.went_through = bool(
                    sender.notify(
                        title=quiet(said.title()),
                        body="\n".join(map(quiet, said.text_lines())),
                        notify_type=_tone(said),
                        body_format=NotifyFormat.TEXT,
                    )
                )
        except Exception as error:  # noqa: BLE001  a hundred services fail in a hundred ways
            # Its text may hold the URL.
            _log.warning("Apprise failed with %s", type(error).__name__)
        finally:
            _slots.release()
            self.done.set()


_log = logging.getLogger("medic.targets.apprise")


def quiet(text: str) -> str:
    """Text in which no service finds a mention: a space without width stands behind each ``@`` and ``<``."""
    return _MENTION.sub("\\g<0>\u200b", text)


def _tone(notification: Notification) -> Any:
    from apprise import NotifyType

    if notification.is_over:
        return NotifyType.SUCCESS
    if not notification.alerts:
        return NotifyType.INFO
    return NotifyType.FAILURE if notification.severity in {"critical", "error"} else NotifyType.WARNING


def _service(url: str) -> NotifyBase:
    """The service that a URL is for.

    :raises Invalid: it is for none, or for one that is refused; the URL is not in the text.
    """
    from apprise import Apprise as Sender
    from apprise import AppriseAttachment
    from apprise.manager_plugins import NotificationManager
    from apprise.plugins import url_to_dict

    asset = _asset()
    parts = url_to_dict(url, secure_logging=True)  # type: ignore[no-untyped-call]
    if not parts:
        raise Invalid.at("secrets.url", "is no URL that Apprise knows")
    given = {str(name).lower() for name in (parts.get("qsd") or {})} | set(parts)
    if unfit := sorted(given & _REFUSED_OPTIONS):
        raise Invalid.at("secrets.url", f"may not have the option {unfit[0]}")
    # Judged before it is made: some write files while they are.
    plugins = NotificationManager()  # type: ignore[no-untyped-call]
    if not _REFUSED.isdisjoint(plugins[parts["schema"]].__module__.split(".")):
        raise Invalid.at("secrets.url", "is for a service that Medic does not let Apprise use")
    service = Sender.instantiate(parts, asset=asset)
    if service is None:
        raise Invalid.at("secrets.url", "is not complete, or its service cannot be used here")
    # Templates and key files, whatever the option is called: Apprise would read them on this machine.
    if any(isinstance(value, AppriseAttachment) and len(value) for value in vars(service).values()):
        raise Invalid.at("secrets.url", "may not name a file")
    return service


@lru_cache(maxsize=1)
def _asset() -> AppriseAsset:
    """How Apprise behaves here: it keeps nothing on disk, follows no redirect, starts no thread, logs nothing."""
    from apprise import AppriseAsset, PersistentStoreMode
    from apprise.manager_plugins import NotificationManager

    with warnings.catch_warnings():
        # A hundred plugins, one of which imports what the next Python deprecates.
        warnings.simplefilter("ignore")
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]
    for name in ("apprise", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return AppriseAsset(
        app_id="Medic",
        app_desc="Medic",
        async_mode=False,
        secure_logging=True,
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode=PersistentStoreMode.MEMORY,
        service_timeout=0,
        allow_templates=False,
    )
