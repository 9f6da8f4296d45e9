"""
Where the status server reads the figures of a relay: in the relay's parts, when a client asks; and whether it is ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime

from relayd.commands.dispatcher import Dispatcher
from relayd.journal.memory import MemoryJournal
from relayd.process.event_loop import LagMonitor
from relayd.ssh.client import SSHClient
from relayd.uplink.service import UplinkService

if TYPE_CHECKING:  # otherwise imported by `relayd.service`, where the settings need them
    from relayd.audit.log import AuditLog
    from relayd.journal.durable import DurableJournal


class StatusSources(Struct, frozen=True, kw_only=True):
    """
    The parts of one relay that the status server reads.

    :ivar clock: the relay's.
    :ivar started: when the relay started, by that clock.
    :ivar server: URL of the main server, without a secret.
    :ivar max_sessions: sessions on a connection that the site allows.
    :ivar max_total_connections: connections in all that the site, and the process's file descriptors, allow.
    :ivar audit: ``None`` without an audit log.
    """

    clock: IReactorTime
    started: float
    server: str
    proxy_id: str
    max_sessions: int
    max_total_connections: int
    uplink: UplinkService
    commands: Dispatcher
    journal: DurableJournal | MemoryJournal
    hosts: SSHClient
    lag: LagMonitor
    audit: AuditLog | None

    def obstacles(self) -> list[str]:
        """Why the relay would not accept and run a command of the main server now; empty when it would."""
        found = []
        if not self.commands.accepting:
            found.append("it is shutting down and accepts no new commands")
        status = self.uplink.status
        if not status.accepted:
            found.append(f"the main server has not accepted it: {status.last_error or 'relayd is connecting'}")
        trouble = self.journal.figures().trouble
        if trouble is not None:
            found.append(f"the journal accepts no commands: {trouble}")
        if self.audit is not None and not self.audit.available:
            found.append("the audit log cannot be written")
        return found
