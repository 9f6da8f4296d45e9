"""
The status of a relay as one document: for programs, for ``relayctl status`` and for the page.

The document never holds the text of a command or its output, and its size is bounded.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from typing import Any, Final

from relayd import __version__
from relayd.commands.active import ActiveCommand
from relayd.commands.dispatcher import Dispatcher
from relayd.commands.stats import EndedCommand, Stats
from relayd.journal.index import Figures
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.sources import StatusSources
from relayd.uplink.service import UplinkStatus

#: Most rows in each list; the rest is only counted.
MOST_ROWS: Final = 100


def summarize(sources: StatusSources) -> dict[str, Any]:
    """The document, fit for JSON; times are in seconds."""
    now = sources.clock.seconds()
    obstacles = sources.obstacles()
    counted, active = sources.commands.stats, sources.commands.active
    hosts = sources.hosts.hosts()
    return {
        "version": __version__,
        "proxyId": sources.proxy_id,
        "server": sources.server,
        "servers": [
            {"server": str(each.address), "current": each is sources.uplink.current, "attempts": each.attempts}
            for each in sources.uplink.servers
        ],
        "uptime": now - sources.started,
        "ready": not obstacles,
        "obstacles": obstacles,
        "uplink": {"server": str(sources.uplink.current.address), **_uplink(sources.uplink.status, now)},
        "commands": _commands(sources.commands),
        "results": _results(counted),
        "journal": _journal(sources.journal.figures()),
        "audit": None if sources.audit is None else {"available": sources.audit.available},
        "eventLoop": {"longestDelay": sources.lag.snapshot().longest},
        "hosts": [_host(host, sources.max_sessions) for host in nlargest(MOST_ROWS, hosts, key=_activity)],
        "hostsInAll": len(hosts),
        "active": [_active(each, now) for each in islice(active.values(), MOST_ROWS)],
        "activeInAll": len(active),
        "recent": [_ended(ended, now) for ended in islice(reversed(counted.recent), MOST_ROWS)],
    }


def _uplink(status: UplinkStatus, now: float) -> dict[str, Any]:
    return {
        "accepted": status.accepted,
        "dialect": status.dialect,
        "since": now - status.since,
        "losses": status.losses,
        "lastError": status.last_error,
    }


def _commands(commands: Dispatcher) -> dict[str, Any]:
    return {
        "running": commands.running,
        "maxRunning": commands.limits.max_commands,
        "queued": commands.queued,
        "maxQueued": commands.limits.max_queue,
        "accepted": commands.stats.accepted,
        "finished": dict(commands.stats.finished),
        "refused": dict(commands.stats.refused),
    }


def _results(counted: Stats) -> dict[str, Any]:
    return {
        "sent": counted.sent,
        "confirmed": counted.confirmed + counted.presumed,
        "rejected": counted.rejected,
        "givenUp": counted.given_up,
    }


def _journal(figures: Figures) -> dict[str, Any]:
    return {
        "unfinished": figures.unfinished,
        "unconfirmed": figures.unconfirmed,
        "oldest": figures.oldest,
        "dead": figures.dead,
        "bytes": figures.size,
        "maxBytes": figures.max_size,
        "trouble": figures.trouble,
    }


def _activity(host: HostCounts) -> int:
    return host.sessions + host.waiting + host.connections + host.dialling


def _host(host: HostCounts, most: int) -> dict[str, Any]:
    return {
        "host": host.host,
        "connections": host.connections,
        "dialling": host.dialling,
        "sessions": host.sessions,
        "waiting": host.waiting,
        "limit": host.limit,
        "learned": host.limit < most,
        "single": host.single,
    }


def _active(active: ActiveCommand, now: float) -> dict[str, Any]:
    command = active.command
    return {
        "id": command.command_id,
        "host": command.host,
        "port": command.port,
        "user": command.username,
        "state": active.state.value,
        "duration": now - active.received,
    }


def _ended(ended: EndedCommand, now: float) -> dict[str, Any]:
    return {
        "id": ended.command_id,
        "host": ended.host,
        "port": ended.port,
        "user": ended.user,
        "outcome": ended.outcome,
        "exit": ended.exit_code,
        "duration": ended.duration,
        "ago": now - ended.at,
    }
