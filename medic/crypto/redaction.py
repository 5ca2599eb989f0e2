"""Take the values of secrets out of whatever is stored, logged or shown.

A seat belt, not a wall: it finds a value in the spellings of `medic.crypto.spellings`; a script can always
write its secret in another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from medic.crypto.spellings import encoded, escaped
from medic.errors import Invalid

MIN_LENGTH: Final = 8
"""A shorter value would be found by chance all over the output, and could be guessed from the gaps."""

MAX_LENGTH: Final = 8_192
"""Room for any key file; the pattern of a longer value would take seconds to make."""

_MAX_DEPTH: Final = 64


def check_secret_value(value: str) -> None:
    """Refuse, at creation, what could not be redacted or passed on.

    :raises Invalid: never showing the value.
    """
    if len(value) < MIN_LENGTH:
        raise Invalid.at(
            "value", f"is shorter than {MIN_LENGTH} characters, too short to be kept out of logs"
        )
    if len(value) > MAX_LENGTH:
        raise Invalid.at("value", f"is longer than {MAX_LENGTH} characters")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise Invalid.at("value", "holds a character that is no text")


class Redactor:
    """Replaces each secret by ``[secret:name]``.  Safe for threads: it changes nothing after it is made."""

    def __init__(self, secrets: Mapping[str, SecretStr]) -> None:
        # Longest first, so that a value which begins with another one is taken whole.
        known = sorted(
            ((text, name) for name, value in secrets.items() if (text := value.get_secret_value())),
            key=lambda pair: (-len(pair[0]), pair[1]),
        )
        self._markers: list[str] = []
        self._pattern: re.Pattern[str] | None = None
        self._anchors: list[str] = []
        self.longest = 0
        """Length of the longest text that is ever replaced."""
        alternatives = []
        # The plain form of any secret goes before a base64 reading of another.
        for spellings in (escaped, encoded):
            for value, name in known:
                for spelling in spellings(value):
                    self._markers.append(f"[secret:{name}]")
                    alternatives.append(f"({spelling.pattern})")
                    self._anchors.append(spelling.anchor)
                    self.longest = max(self.longest, spelling.longest)
        if alternatives:
            self._pattern = re.compile("|".join(alternatives))

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self.part(text, certain=len(text))[0]

    def json(self, value: Any) -> Any:
        """A JSON value without secrets: in texts, in keys, and numbers that spell one.

        What lies deeper than 64 levels is replaced by ``[too deep]``.
        """
        return self._json(value, 0) if self._pattern else value

    def stream(self) -> RedactionStream:
        """A redactor for text that comes in pieces."""
        return RedactionStream(self)

    def _json(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, (int, float)):
            written = str(value)
            redacted = self.text(written)
            return value if redacted == written else redacted
        if depth >= _MAX_DEPTH:
            return "[too deep]"
        if isinstance(value, Mapping):
            return {self._json(key, depth): self._json(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._json(item, depth + 1) for item in value]
        return self.text(str(value))

    def part(self, text: str, *, certain: int) -> tuple[str, str]:
        """Redact what begins before ``certain``; the second text is the rest, as it was."""
        out, position = [], 0
        if self._pattern is not None and any(anchor in text for anchor in self._anchors):
            for match in self._pattern.finditer(text):
                if match.start() >= certain:
                    break
                out.append(text[position : match.start()])
                out.append(self._markers[(match.lastindex or 1) - 1])
                position = match.end()
        end = max(position, certain)
        out.append(text[position:end])
        return "".join(out), text[end:]


class RedactionStream:
    """Redacts text in pieces, just as if it had come at once.

    It keeps back one character less than the longest spelling, since a secret may begin there.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._keep = max(0, redactor.longest - 1)
        self._kept = ""

    def feed(self, piece: str) -> str:
        """The text that is certain by now."""
        text = self._kept + piece
        # What begins before the part that is kept back has its whole length here.
        done, self._kept = self._redactor.part(text, certain=max(0, len(text) - self._keep))
        return done

    def finish(self) -> str:
        """The rest.  The stream may be used again."""
        done, self._kept = self._redactor.text(self._kept), ""
        return done
