"""
What the errors of relayd and of its SSH library have in common: a stable code for programs, a message for people.
"""

from __future__ import annotations

from typing import Literal

from relayd.language.texts import Text, message_template

#: Whether a command ran.
Executed = Literal["yes", "no", "unknown"]


class DescribedError(Exception):
    """
    An error whose message is the docstring of its class: a format string over the error's fields.

    The message says what failed, on which host, and what to do.  No field may ever hold a secret.

    :ivar code: stable name for programs: goes into ``error.code`` of extended results, metrics and logs.
    :ivar phase: where on the way of a command it happens; empty where it does not belong to a command.
    :ivar executed: whether the command ran.
    :ivar retriable: whether the same command may succeed later although nobody has changed anything.
    """

    code: str = "error"
    phase: str = ""
    executed: Executed = "no"
    retriable: bool = False

    def __init__(self, **fields: object) -> None:
        super().__init__(fields)
        self.fields = fields

    def __str__(self) -> str:
        return str(self.text)

    @property
    def text(self) -> Text:
        """Its message, which can be said in another language."""
        template = type(self).__doc__
        if template is None:  # python -OO strips docstrings; the code and the fields still tell
            return Text("{code}: {fields}", code=self.code, fields=self.fields)
        return Text(message_template(template), **self.fields)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"
