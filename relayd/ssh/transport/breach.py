"""
Faults during a connection: violations of the protocol by a server, and what this side lacks.
"""

from __future__ import annotations

from relayd.language.texts import Fault


class Breach(Fault):
    """The server broke the protocol; the argument says what it sent. The transport then closes the connection."""


class LibraryGone(Fault):
    """A library that was there when this program began cannot be loaded any more; the argument says so."""
