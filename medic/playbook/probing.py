"""``probe:`` of a step: what finds out whether it happened, when its worker was lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, cast, runtime_checkable

from medic.errors import Invalid
from medic.playbook.document import Probe
from medic.playbook.findings import suggest
from medic.playbook.reader import Reader
from medic.playbook.retrying import read_failures

INTERVAL = timedelta(seconds=10)
TIMEOUT = timedelta(minutes=5)
_SECOND = timedelta(seconds=1)


@runtime_checkable
class ProbeGrammar(Protocol):
    """A step type that can ask without an effect."""

    def parse_probe(self, reader: Reader) -> Any: ...


def read_probe(reader: Reader, types: Mapping[str, Any], *, on_crash: str) -> Probe | None:
    """Read the key; only a step whose doubt would go to a human has one."""
    inner = reader.mapping("probe")
    if inner is None:
        return None
    if on_crash != "ask":
        reader.problem("settles a doubt, and there is none unless on_crash is ask", "probe")
    able = [name for name, kind in types.items() if isinstance(kind, ProbeGrammar)]
    word = inner.text("type", "condition" if "check" in inner else "webhook")
    kind = types.get(word)
    if not isinstance(kind, ProbeGrammar):
        inner.problem(f"'{word[:40]}' cannot be a probe{suggest(word, able)}", "type")
        list(inner.keys())
        return None
    try:
        spec = kind.parse_probe(inner)
    except Invalid as error:
        inner.problem(error.message)
        list(inner.keys())
        return None
    otherwise = inner.choice("otherwise", ("ask", "retry", "fail"), "ask")
    probe = Probe(
        type=word,
        spec=spec,
        interval=inner.duration("interval", INTERVAL, least=_SECOND) or INTERVAL,
        timeout=inner.duration("timeout", TIMEOUT, least=_SECOND) or TIMEOUT,
        retry_on=read_failures(inner, "retry_on"),
        fail_on=read_failures(inner, "fail_on"),
        otherwise=cast('Literal["ask", "retry", "fail"]', otherwise),
    )
    inner.finish()
    return probe
