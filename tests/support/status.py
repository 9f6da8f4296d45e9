"""
A relay's figures without a relay, for tests of what shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.commands.active import ActiveCommand
from relayd.commands.dispatcher import Limits
from relayd.commands.stats import EndedCommand, Stats
from relayd.journal.index import Figures
from relayd.process.event_loop import LagMonitor
from relayd.ssh.pool.pool_report import Counts, HostCounts
from relayd.status.sources import StatusSources
from relayd.uplink.service import UplinkStatus
from tests.support.dispatching import command


class MainServerInUse(Struct):
    """What is shown of a main server."""

    address: str
    attempts: int


class FakeRelay:
    """Plays all parts of one relay, which is ready; a test changes what it wants to see."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.status = UplinkStatus(accepted=True, dialect="socketio", since=900, losses=3)
        self.ignored = 4
        self.servers = [MainServerInUse("wss://main.example.com", 4)]
        self.current = self.servers[0]
        self.stats = Stats()
        self.limits = Limits(max_commands=64, max_queue=10000, default_timeout=300, max_timeout=86400)
        self.running = 0
        self.queued = 0
        self.accepting = True
        self.active: Mapping[str, ActiveCommand] = {}
        self.available = True
        self.trouble: str | None = None
        self.host_counts: Sequence[HostCounts] = ()
        self.lag = LagMonitor(self.clock)
        part = cast(Any, self)
        self.sources = StatusSources(
            clock=self.clock,
            started=100.0,
            server="wss://main.example.com",
            proxy_id="site-1",
            max_sessions=10,
            max_total_connections=1000,
            uplink=part,
            commands=part,
            journal=part,
            hosts=part,
            lag=self.lag,
            audit=part,
        )

    def certificate_ends(self) -> dict[str, float]:
        return {"main_server": 2e9, "relay": 3e9}

    def figures(self) -> Figures:
        return Figures(
            unfinished=len(self.active), unconfirmed=2, dead=1, size=4096, max_size=1 << 30, oldest=12.5,
            trouble=self.trouble,
        )  # fmt: skip

    def counts(self) -> Counts:
        return Counts(
            waiting=1, waiting_forwards=0, dialling=1, connections=5, idle=2, sessions=9, forwards=0
        )  # fmt: skip

    def hosts(self) -> Sequence[HostCounts]:
        return self.host_counts

    def end(self, command_id: str = "c1", outcome: str = "ok", **fields: Any) -> None:
        """A command has ended."""
        values: dict[str, Any] = {
            "host": "web-1", "port": 22, "user": "deploy", "exit_code": 0, "duration": 0.25,
            "at": self.clock.seconds(), **fields,
        }  # fmt: skip
        self.stats.finished[outcome] += 1
        self.stats.recent.append(EndedCommand(command_id=command_id, outcome=outcome, **values))

    def begin(self, command_id: str, host: str = "web-1", *, running: bool = False, **fields: Any) -> None:
        """A command is at hand."""
        order = command(command_id, host=host, **fields)
        active = ActiveCommand(order, b"", self.clock.seconds(), self.clock.seconds() + 60, lambda _: None)
        active.run = Deferred() if running else None
        self.active = {**self.active, command_id: active}
