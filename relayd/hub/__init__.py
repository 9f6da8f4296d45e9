"""
A main server: accepts relays in both dialects on one port, sends them commands, gives back the results.

It is what the demo and many tests run against, with the same messages and codecs as the relay.
"""

from relayd.hub.server import Hub
from relayd.hub.settings import HubSettings

__all__ = ["Hub", "HubSettings"]
