"""
For tests of programs that use `relayd.ssh`: SSH servers in memory, which can fail in named ways; see docs/ssh.rst.
"""

from relayd.ssh.testing.behaviour import Habit, Misbehaviour, ReceivedCommand, Reply
from relayd.ssh.testing.device import CommandLine, MemoryDevice
from relayd.ssh.testing.host import MemoryHost
from relayd.ssh.testing.network import MemoryNetwork
from relayd.ssh.testing.server import ServerConnection, ServerFactory

__all__ = [
    "CommandLine",
    "Habit",
    "MemoryDevice",
    "MemoryHost",
    "MemoryNetwork",
    "Misbehaviour",
    "ReceivedCommand",
    "Reply",
    "ServerConnection",
    "ServerFactory",
]
