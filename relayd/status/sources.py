"""
Where the figures of a relay come from: its parts, asked when somebody wants to know, and whether it is ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime

from relayd.commands.active import ActiveCommand
from relayd.commands.dispatcher import Limits
from relayd.commands.stats import Stats
from relayd.journal.index import Figures
from relayd.process.event_loop import Lag
from relayd.ssh.pool.report import Counts, HostCounts
from relayd.uplink.service import UplinkStatus


class Uplink(Protocol):
    """What is asked of the uplink."""

    @property
    def status(self) -> UplinkStatus:
        """How things stand with the main server."""

    @property
    def ignored(self) -> int:
        """Messages of it for which there was no use."""


class Commands(Protocol):
    """What is asked of the dispatcher."""

    @property
    def stats(self) -> Stats:
        """What it has counted."""

    @property
    def limits(self) -> Limits:
        """What it takes on, which can change."""

    @property
    def running(self) -> int:
        """Commands that run."""

    @property
    def queued(self) -> int:
        """Commands that wait for their turn."""

    @property
    def accepting(self) -> bool:
        """Whether new ones are taken."""

    @property
    def active(self) -> Mapping[str, ActiveCommand]:
        """Those at hand."""


class Journal(Protocol):
    """What is asked of the journal."""

    def figures(self) -> Figures:
        """How things stand."""


class Hosts(Protocol):
    """What is asked of the runner."""

    def counts(self) -> Counts:
        """What the pool holds."""

    def hosts(self) -> Sequence[HostCounts]:
        """The same for each host."""


class Audit(Protocol):
    """What is asked of the audit log."""

    @property
    def available(self) -> bool:
        """Whether it can be written."""


class EventLoop(Protocol):
    """What is asked of the monitor of the event loop."""

    def snapshot(self) -> Lag:
        """What it has seen."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What the site allows for as long as the process lives, as in `relayd.config.options.Config`."""

    max_sessions: int
    max_total_connections: int


class Sources(Struct, frozen=True, kw_only=True):
    """
    The parts of one relay.

    :ivar clock: the relay's.
    :ivar started: when it started, by that.
    :ivar server: URL of the main server, without a secret.
    """

    clock: IReactorTime
    started: float
    server: str
    proxy_id: str
    bounds: Bounds
    uplink: Uplink
    commands: Commands
    journal: Journal
    hosts: Hosts
    lag: EventLoop
    audit: Audit | None

    def obstacles(self) -> list[str]:
        """Why it would not take and run a command of the main server now; empty: it would."""
        found = []
        if not self.commands.accepting:
            found.append("it is being stopped, and takes no new commands")
        status = self.uplink.status
        if not status.accepted:
            found.append(f"the main server has not accepted it: {status.last_error or 'it is being dialled'}")
        trouble = self.journal.figures().trouble
        if trouble is not None:
            found.append(f"the journal takes no commands: {trouble}")
        if self.audit is not None and not self.audit.available:
            found.append("the audit log cannot be written")
        return found
