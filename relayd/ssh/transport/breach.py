"""
Violations of the protocol by a server.
"""

from __future__ import annotations

from relayd.language.texts import Fault


class Breach(Fault):
    """The server broke the protocol; the argument says what it sent. The transport then closes the connection."""
