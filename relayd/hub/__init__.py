"""
A main server: accepts relays in both dialects on one port, sends them commands, and returns the results.

The demonstration and many tests run against it.  It uses the same messages and codecs as the relay.
"""

from relayd.hub.server import Hub
from relayd.hub.settings import HubSettings

__all__ = ["Hub", "HubSettings"]
