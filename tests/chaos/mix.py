"""The playbooks of a chaos run: every step type, every `on_crash`, every way to end."""

from __future__ import annotations

import random
from dataclasses import dataclass

LOCKS = 4


@dataclass(frozen=True)
class Recipe:
    """
    :ivar share: how many of 300 executions.
    :ivar ends: the codes of failures that are no surprise, beside those of lost workers.
    :ivar exclusive: others wait for its end, so that it may not stand in doubt for ever.
    """

    name: str
    steps: str
    share: int
    head: str = ""
    ends: frozenset[str] = frozenset()
    exclusive: bool = False
    service: str | None = None

    def source(self, url: str) -> str:
        return f"name: {self.name}\n{self.head}\nsteps:\n{self.steps}".replace("URL", url)

    def variables(self, chance: random.Random) -> dict[str, str]:
        return {"HOST": f"w{chance.randrange(LOCKS)}"} if self.name == "locked" else {}


def _hook(name: str, method: str, path: str = "ok", **more: object) -> str:
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f'  - {{name: {name}, type: webhook, method: {method}, url: "URL/{path}"{rest}}}\n'


def _lines(*steps: str) -> str:
    return "".join(steps)


REFUSED = frozenset({"http_503"})

MIX = (
    Recipe("asking", _lines(*(_hook(f"s{at}", "POST") for at in range(3))), 40),
    Recipe("repeating", _lines(_hook("a", "PUT"), _hook("b", "POST", idempotent="true"), _hook("c", "PUT")), 44),
    Recipe("declared", _lines(_hook("a", "POST", on_crash="retry"), _hook("b", "PUT", on_crash="ask")), 24),
    Recipe("crash-fails", _lines(_hook("a", "POST", on_crash="fail"), _hook("b", "PUT")), 20),
    Recipe(
        "crash-passes",
        _lines(_hook("a", "POST", on_crash="fail", on_failure="continue"), _hook("b", "PUT")),
        16,
    ),
    Recipe(
        "waiting",
        _lines(
            _hook("a", "PUT"), "  - {name: w, type: wait, duration: 1s}\n", _hook("b", "POST"),
            "  - {name: x, type: wait, duration: 2s}\n", _hook("c", "PUT"),
        ),
        26,
    ),
    Recipe(
        "trying",
        _lines(
            _hook("a", "POST", "flaky", retry="{attempts: 5, backoff: 1s, factor: 1}"),
            _hook("b", "PUT", "flaky", retry="{attempts: 5, backoff: 1s, factor: 1}"),
            _hook("c", "PUT"),
        ),
        16,
        ends=REFUSED,
    ),
    Recipe("failing", _lines(_hook("a", "PUT"), _hook("b", "POST", "broken"), _hook("c", "PUT")), 16, ends=REFUSED),
    Recipe(
        "giving-up",
        _lines(_hook("a", "PUT", "broken", retry="{attempts: 2, backoff: 1s}"), _hook("b", "PUT")),
        10,
        ends=REFUSED,
    ),
    Recipe(
        "passing",
        _lines(_hook("a", "PUT", "broken", on_failure="continue"), _hook("b", "POST")),
        12,
    ),
    Recipe(
        "polling",
        _lines(
            _hook("a", "PUT"),
            '  - {name: p, type: condition, check: http, url: "URL/ready/${EXECUTION_ID}", interval: 1s,'
            " timeout: 5m}\n",
            _hook("b", "POST"),
        ),
        12,
    ),
    Recipe(
        "hearing",
        _lines(
            _hook("a", "PUT"),
            "  - {name: h, type: condition, check: heartbeat_received, timeout: 5m}\n",
            _hook("b", "PUT"),
        ),
        10,
        service="pulse",
    ),
    Recipe("scripted", _lines("  - {name: s, type: script, script: call}\n", _hook("b", "PUT")), 10),
    Recipe(
        "allowed",
        _lines(_hook("a", "PUT"), _hook("b", "PUT")),
        12,
        head="approval: required",
    ),
    Recipe(
        "asking-midway",
        _lines(_hook("a", "PUT"), "  - {name: q, type: approval}\n", _hook("b", "POST")),
        12,
        ends=frozenset({"rejected"}),
    ),
    Recipe(
        "locked",
        _lines(_hook("a", "PUT"), _hook("b", "POST")),
        10,
        head='lock: "host-${HOST}"\nvariables: {HOST: {default: w0}}',
        exclusive=True,
    ),
    Recipe(
        "crowded",
        _lines(_hook("a", "PUT"), _hook("b", "PUT")),
        8,
        head="concurrency: {per_playbook: 3}",
        exclusive=True,
    ),
    Recipe("long", _lines(*(_hook(f"s{at:02d}", "PUT") for at in range(23))), 2),
)  # fmt: skip

BY_NAME = {recipe.name: recipe for recipe in MIX}

SCRIPT = r"""
exec 3<>"/dev/tcp/127.0.0.1/PORT"
printf 'POST /ok HTTP/1.0\r\nIdempotency-Key: %s\r\nMedic-Fencing-Token: %s\r\nContent-Length: 0\r\n\r\n' \
  "$MEDIC_IDEMPOTENCY_KEY" "$MEDIC_FENCING_TOKEN" >&3
cat <&3 >/dev/null
"""


def drawn(chance: random.Random, count: int) -> list[Recipe]:
    """So many executions, in their shares, in a random order."""
    whole = [recipe for recipe in MIX for _ in range(recipe.share)]
    picked = (
        [whole[at % len(whole)] for at in range(count)]
        if count >= len(whole)
        else chance.sample(whole, count)
    )
    chance.shuffle(picked)
    return picked
