"""
What stands in an event for bytes that were announced, and did not come as they should.
"""

from __future__ import annotations

from typing import Final

from relayd.language.texts import Text


class Unsent:
    """
    Takes the place, in an event, of bytes that did not come, were too many, or cannot be read as a text.

    :ivar fault: which of these, in words that follow the name of a field.
    """

    __slots__ = ("fault",)

    def __init__(self, fault: Text) -> None:
        self.fault = fault


#: The fault of bytes that should be a text.
NO_UTF8: Final = Text("came as bytes that are not UTF-8")
