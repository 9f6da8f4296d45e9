"""
What a server sent and the protocol does not allow.
"""

from __future__ import annotations

from relayd.language.texts import Fault


class Breach(Fault):
    """The server broke the protocol: the argument says what it sent. The transport ends the connection for it."""
