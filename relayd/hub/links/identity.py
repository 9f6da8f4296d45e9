"""
Who is at the other end of a link: whose key it has shown, and what program it is.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from twisted.internet.defer import Deferred

from relayd.wire.parsing import FEATURES
from relayd.wire.relay_info import RelayInfo


class RelayIdentity(Struct, frozen=True):
    """
    A relay whose key was right.

    :ivar proxy_id: its name.
    :ivar key_id: names the key that it has shown; empty where keys have no names.
    """

    proxy_id: str
    key_id: str = ""


#: Says whether a ``proxyId`` and an ``apiKey`` belong together, and may come from that address (empty: not known).
#: ``None``: they may not; the peer is not told why.  A failure: that cannot be said now.
Authenticate = Callable[[str, str, str], "Deferred[RelayIdentity | None]"]


class RelayProgram(Struct, frozen=True):
    """
    What the program at the other end of a link tells of itself.

    :ivar info: its answer to ``relay_info``; ``None``: it has not answered, as any program but relayd.
    :ivar refusal: its words where it does not tell.
    """

    info: RelayInfo | None = None
    refusal: str = ""

    @property
    def journal_id(self) -> str:
        """Names the record of what it was sent; empty where it has none, or none that is known."""
        return "" if self.info is None else self.info.journal_id

    @property
    def joins_duplicates(self) -> bool:
        """
        Whether a command that is sent again to the same journal runs once.  A command must never be sent twice to any
        other program, nor to another journal under the same name.
        """
        return bool(self.journal_id)

    def has(self, feature: str) -> bool:
        """Whether it has an extension: a field of a command, or an event."""
        return self.info is not None and feature in self.info.features

    @property
    def lacks(self) -> tuple[str, ...]:
        """The extensions that it does not have, as far as is known."""
        return tuple(feature for feature in FEATURES if not self.has(feature))
