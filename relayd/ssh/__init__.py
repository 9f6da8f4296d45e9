"""
Commands on SSH hosts over pooled connections: an SSH client on Twisted Conch; see docs/ssh.rst.
"""

from relayd.ssh.client import SSHClient
from relayd.ssh.errors import SSHError
from relayd.ssh.outcome import Completed
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target

__all__ = ["Completed", "Credential", "SSHClient", "SSHError", "SSHSettings", "Target"]
