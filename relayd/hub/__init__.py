"""
A main server: accepts relays in both dialects on one port, sends them commands, and returns the results.

The demonstration and many tests run against it.  It uses the same messages and codecs as the relay.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # otherwise imported when they are asked for: relayctl needs the hub's options alone, and at once
    from relayd.hub.server import Hub
    from relayd.hub.settings import HubSettings

__all__ = ["Hub", "HubSettings"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    modules = {"Hub": "relayd.hub.server", "HubSettings": "relayd.hub.settings"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(modules[name]), name)
