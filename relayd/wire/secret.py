"""
A text that nobody shall see: passwords, keys, passphrases.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A text that is never shown: ``repr`` and ``str`` hide it, it cannot be pickled, and only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call this as late as possible, and do not keep the answer in an attribute."""
        return self._text

    def __len__(self) -> int:
        return len(self._text)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

    def _bytes(self) -> bytes:
        return self._text.encode("utf-8", "surrogatepass")


def as_secret(name: str, value: object) -> Secret:
    """
    A secret that a program gave, perhaps as `str`.

    :raises TypeError: when it is neither; it shows *name* and no value.
    """
    if not isinstance(value, Secret | str):
        raise TypeError(f"{name} has to be a Secret or a str, not {type(value).__name__}")
    return Secret(value) if isinstance(value, str) else value
