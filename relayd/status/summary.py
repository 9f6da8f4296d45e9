"""
How things stand with a relay, in one document: for programs, ``relayctl status`` and the page.
It never holds the text of a command or its output, and it is bounded.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from typing import Any, Final

from relayd import __version__
from relayd.commands.active import ActiveCommand
from relayd.commands.stats import EndedCommand
from relayd.ssh.pool.report import HostCounts
from relayd.status.sources import Sources

#: Rows of each list; what is beyond is counted.
MOST_ROWS: Final = 100


def summarize(sources: Sources) -> dict[str, Any]:
    """The document, fit for JSON; times are in seconds."""
    now = sources.clock.seconds()
    obstacles = sources.obstacles()
    status, figures, seen = sources.uplink.status, sources.journal.figures(), sources.lag.snapshot()
    commands, bounds = sources.commands, sources.bounds
    counted = commands.stats
    hosts = sources.hosts.hosts()
    return {
        "version": __version__,
        "proxyId": sources.proxy_id,
        "server": sources.server,
        "uptime": now - sources.started,
        "ready": not obstacles,
        "obstacles": obstacles,
        "uplink": {
            "accepted": status.accepted,
            "dialect": status.dialect,
            "since": now - status.since,
            "losses": status.losses,
            "lastError": status.last_error,
        },
        "commands": {
            "running": commands.running,
            "maxRunning": commands.limits.max_commands,
            "queued": commands.queued,
            "maxQueued": commands.limits.max_queue,
            "accepted": counted.accepted,
            "finished": dict(counted.finished),
            "refused": dict(counted.refused),
        },
        "results": {
            "sent": counted.sent,
            "confirmed": counted.confirmed + counted.presumed,
            "rejected": counted.rejected,
            "givenUp": counted.given_up,
        },
        "journal": {
            "unfinished": figures.unfinished,
            "unconfirmed": figures.unconfirmed,
            "oldest": figures.oldest,
            "dead": figures.dead,
            "bytes": figures.size,
            "maxBytes": figures.max_size,
            "trouble": figures.trouble,
        },
        "audit": None if sources.audit is None else {"available": sources.audit.available},
        "eventLoop": {"longestDelay": seen.longest},
        "hosts": [_host(host, bounds.max_sessions) for host in nlargest(MOST_ROWS, hosts, key=_activity)],
        "hostsInAll": len(hosts),
        "active": [_active(active, now) for active in islice(commands.active.values(), MOST_ROWS)],
        "activeInAll": len(commands.active),
        "recent": [_ended(ended, now) for ended in islice(reversed(counted.recent), MOST_ROWS)],
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
