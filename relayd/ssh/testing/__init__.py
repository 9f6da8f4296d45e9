"""
For tests of programs that use `relayd.ssh`: SSH servers in memory, which can fail in named ways; see docs/ssh.rst.
"""

from relayd.ssh.testing.behaviour import Execution, Misbehaviour, Reply
from relayd.ssh.testing.host import MemoryHost
from relayd.ssh.testing.network import MemoryNetwork
from relayd.ssh.testing.server import ServerConnection, ServerFactory

__all__ = [
    "Execution",
    "MemoryHost",
    "MemoryNetwork",
    "Misbehaviour",
    "Reply",
    "ServerConnection",
    "ServerFactory",
]
