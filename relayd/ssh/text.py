"""
What a server says, made fit for a message or a log line.
"""

from __future__ import annotations


def printable(text: bytes, limit: int = 200) -> str:
    """At most *limit* bytes of *text*, with ``?`` for what does not print."""
    return "".join(char if char.isprintable() else "?" for char in text[:limit].decode("utf-8", "replace"))
