"""Clients that send heartbeats in every way there is, well and badly, until they have an answer.

Each does what the docs tell clients to do: no answer, or a 503, means to send the same again, with the same id.
"""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import requests

BAD_SHARE = 0.05
LOST_SHARE = 0.05
"""Of the answers, so many are taken for lost, and the heartbeat is sent again."""
NO_ANSWER = 503
_LONG = "\u6f22" * 201
_BAD_BODIES = tuple(
    body.replace("$", '"id": "%s", "message": "bad"')
    for body in (
        '{"service": "nobody", $}', '{"service": "NOT A NAME", $}', '{"service": "complete", $}', "{$}",
        '{"service": "a", "status": "great", $}', '{"service": "a", "exit_code": 70000, $}',
        '{"service": "a", "duration_ms": -1, $}', '{"service": "a", "unknown": 1, $}',
        '{"service": "a", "metrics": {"x": NaN}, $}', '{"service": "a", "metrics": {"x": 1e999}, $}',
        '{"service": "a", "metrics": {"\\u0000": 1}, $}', '{"service": "a", "run_id": "\\u0000", $}',
        '{"service": "a", "run_id": "\\ud800", $}', '{"service": "a", "run_id": "' + _LONG + '", $}',
        '{"service": "a", "occurred_at": "2999-01-01T00:00:00Z", $}',
        '{"service": "a", "message": "bad", "id": "%s' + _LONG + '"}',
        '{"service": "a", "message": "bad", "id": "%s\\u0000"}',
        '{"service": "a", $, not json',
    )
)  # fmt: skip
_WHOLE_BAD = (b"", b"[]", b'"text"', b"{", b'[{"service": "a"', b"[1, 2")


@dataclass(frozen=True)
class Item:
    """One heartbeat on its way in.  ``name`` is its id, where its way in has ids."""

    name: str
    path: str = "/v1/heartbeats"
    body: bytes | None = None
    method: str = "POST"
    is_bad: bool = False


@dataclass
class Client:
    """Sends until it is told that it is enough, and remembers each answer.

    :param number: clients of one number send the very same heartbeats, at the same time.
    :param make: the next items, which are sent one after the other, or all at once by a client of `batch`.
    """

    number: int
    urls: list[str]
    key: str
    seed: int
    make: Callable[[Random, str], list[Item]]
    enough: threading.Event
    has_ids: bool = True
    batch: bool = False
    acknowledged: dict[str, int | None] = field(default_factory=dict)
    answered: int = 0
    refused: int = 0
    retried: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        content, self._luck = Random(f"{self.seed} {self.number}"), Random(f"{self.seed} {id(self)}")
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {self.key}"
            turn = 0
            while not self.enough.is_set():
                items = self.make(content, f"{self.make.__name__}-{self.number}-{turn}")
                for parcel in [items] if self.batch else [[item] for item in items]:
                    self._deliver(session, parcel)
                self.answered += 1
                turn += 1

    def _deliver(self, session: requests.Session, items: list[Item]) -> None:
        """Send what has no answer yet, again and again with the same ids."""
        pause = threading.Event()
        for attempt in range(600):
            left = []
            for item, (status, number) in zip(items, self._send(session, items), strict=True):
                if status == NO_ANSWER:
                    left.append(item)
                elif item.is_bad and 400 <= status < 500:
                    self.refused += 1
                elif not item.is_bad and status in {200, 201, 202}:
                    if self.acknowledged.setdefault(item.name, number) != number:
                        self.wrong.append(f"{item} is {number} and {self.acknowledged[item.name]}")
                    elif self.has_ids and self._luck.random() < LOST_SHARE:
                        left.append(item)
                else:
                    self.wrong.append(f"{item} got {status}")
            if not left:
                return
            items = left
            self.retried += 1
            pause.wait(0.02 if attempt < 5 else 0.1)
        self.wrong.append(f"{items} got no answer")

    def _send(self, session: requests.Session, items: list[Item]) -> list[tuple[int, int | None]]:
        """Each one's status, and its number where the answer tells it."""
        url = self._luck.choice(self.urls)
        try:
            response = (
                self._send_batch(session, url, items)
                if self.batch
                else self._send_one(session, url, items[0])
            )
        except requests.RequestException:
            return [(NO_ANSWER, None)] * len(items)
        if response.status_code == 503 and "Retry-After" not in response.headers:
            self.wrong.append(f"a 503 without Retry-After for {items[0]}")
        if self.batch and response.status_code in {202, 207}:
            return [(item["status"], item["id"]) for item in response.json()["items"]]
        is_told = self.has_ids and response.status_code in {200, 202}
        return [(response.status_code, response.json()["id"] if is_told else None)] * len(items)

    @staticmethod
    def _send_one(session: requests.Session, url: str, item: Item) -> requests.Response:
        return session.request(item.method, url + item.path, data=item.body, timeout=8)

    def _send_batch(self, session: requests.Session, url: str, items: list[Item]) -> requests.Response:
        bodies = [item.body or b"" for item in items]
        headers = {"Content-Type": "application/json"}
        if items[0].name.startswith("whole"):
            raw = bodies[0]
        elif any(b"not json" in body for body in bodies) or self._luck.random() < 0.3:
            raw, headers["Content-Type"] = b"\n".join(bodies), "application/x-ndjson"
        else:
            raw = b"[" + b",".join(bodies) + b"]"
        if self._luck.random() < 0.3:
            raw, headers["Content-Encoding"] = gzip.compress(raw, 1), "gzip"
        return session.post(f"{url}/v1/heartbeats/batch", data=raw, headers=headers, timeout=8)


def _service(random: Random) -> str:
    return random.choice("abc")


def single(random: Random, name: str) -> list[Item]:
    """`POST /v1/heartbeats`; now and then one that is bad, oversize, or wants to make what may not be."""
    if random.random() >= BAD_SHARE:
        return [Item(name, body=_body(random, name))]
    kind = random.randrange(5)
    bad = f"bad-{name}"
    if kind == 0:
        return [Item(bad, body=b'{"service": "a", "message": "bad' + b"x" * 1_048_576 + b'"}', is_bad=True)]
    if kind == 1:
        body = json.dumps({"service": random.choice(("batch", "log", "123")), "id": bad}).encode()
        return [Item(bad, path="/v1/heartbeats?create=1", body=body, is_bad=True)]
    return [_bad_body(random, bad)]


def batch(random: Random, name: str) -> list[Item]:
    """`POST /v1/heartbeats/batch`, in the lane of the singles and in their own; now and then no batch at all."""
    if random.random() < BAD_SHARE:
        return [Item(f"whole-{name}", body=random.choice(_WHOLE_BAD), is_bad=True)]
    count = random.choice((2, 40, 120))
    return [
        _bad_body(random, f"bad-{name}-{n}")
        if random.random() < BAD_SHARE
        else Item(f"{name}-{n}", body=_body(random, f"{name}-{n}"))
        for n in range(count)
    ]


def path(random: Random, name: str) -> list[Item]:
    """`/v1/heartbeats/{service}[/{signal}]`."""
    method = random.choice(("GET", "POST"))
    if random.random() < BAD_SHARE:
        form = random.choice(
            ("nobody?id=%s", "NOT%%20A%%20NAME?id=%s", "a/256?id=%s", "a/great?id=%s", "start?create=1&id=%s",
             "a?id=%s%%00", "a?id=%s" + _LONG, "a?id=%s&rid=" + _LONG, "a?id=%s&rid=1&run_id=1", "a?id=%s&id=2",
             "a?id=%s&duration_ms=x", "a?id=%s&every=0")
        )  # fmt: skip
        return [Item(f"bad-{name}", f"/v1/heartbeats/{form % ('bad-' + name)}", method=method, is_bad=True)]
    signal = random.choice(("", "", "/start", "/complete", "/fail", "/log", "/0", "/3"))
    return [
        Item(
            name,
            f"/v1/heartbeats/{_service(random)}{signal}?id={name}"
            + random.choice(("", f"&rid=r{random.randrange(9)}")),
            body=name.encode() if method == "POST" else None,
            method=method,
        )
    ]


def pings(urls: dict[str, str]) -> Callable[[Random, str], list[Item]]:
    """Ping URLs: a run from start to end.  They have no ids, but its run is one however often they are heard."""

    def ping(random: Random, name: str) -> list[Item]:
        url = urls[_service(random)]
        if random.random() < BAD_SHARE * 2:
            form = random.choice(
                ("/256", "/great", "?rid=no-uuid", "?rid=%00", f"?rid={_LONG}", "/start?rid=1")
            )
            return [Item(f"bad-{name}", url + form, body=b"bad", is_bad=True)]
        rid = uuid.uuid5(uuid.NAMESPACE_OID, name)
        return [
            Item(f"{name}-{word}", f"{url}/{word}?rid={rid}", body=f"{name}-{word}".encode())
            for word in ("start", random.choice(("0", "fail")))
        ]

    return ping


def legacies(ids: dict[str, int]) -> Callable[[Random, str], list[Item]]:
    """The original's routes: no ids either."""

    def legacy(random: Random, name: str) -> list[Item]:
        service = _service(random)
        if random.random() < BAD_SHARE * 2:
            form, body = random.choice((
                ("/heartbeat", '{"heartbeat_name": "a", "status": "bad\\u0000"}'),
                ("/heartbeat", '{"heartbeat_name": "nobody", "status": "bad"}'),
                ("/heartbeat", '{"heartbeat_name": "a"}'), ("/heartbeat", "bad"),
                (f"/v2/heartbeat/{ids['a']}/start", json.dumps({"run_id": _LONG})),
                (f"/v2/heartbeat/{ids['a']}/start", '{"run_id": "\\u0000"}'),
                (f"/v2/heartbeat/{ids['a']}/start", '{"run_id": "\\ud800"}'),
                (f"/v2/heartbeat/{ids['a']}/great", "{}"), ("/v2/heartbeat/999999999/fail", "{}"),
            ))  # fmt: skip
            return [Item(f"bad-{name}", form, body=body.encode(), is_bad=True)]
        run = json.dumps({"run_id": f"{name}-run"}).encode()
        beat = json.dumps({"heartbeat_name": service.upper(), "status": f"{name}-beat"}).encode()
        return [
            Item(f"{name}-beat", "/heartbeat", body=beat),
            Item(f"{name}-start", f"/v2/heartbeat/{ids[service]}/start", body=run),
            Item(f"{name}-end", f"/v2/heartbeat/{ids[service]}/complete", body=run),
        ]

    return legacy


def _body(random: Random, name: str) -> bytes:
    body: dict[str, object] = {"service": _service(random), "id": name, "message": name}
    body["status"] = random.choice(("ok", "ok", "ok", "start", "complete", "fail", "log"))
    if random.random() < 0.2:
        body["run_id"] = f"r{random.randrange(9)}"
    if random.random() < 0.1:
        body |= {
            "occurred_at": "2026-01-01T00:00:00Z",
            "sent_at": f"2026-01-01T00:0{random.randrange(9)}:00Z",
        }
    if random.random() < 0.1:
        body["metrics"] = {"rows": random.random()}
    return json.dumps(body).encode()


def _bad_body(random: Random, name: str) -> Item:
    return Item(name, body=(random.choice(_BAD_BODIES) % name).encode(), is_bad=True)


def twins(client: Client) -> list[Client]:
    """Two that send the very same, so that each heartbeat's two copies race."""
    return [client, replace(client, acknowledged={}, wrong=[])]
